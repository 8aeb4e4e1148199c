"""Model weights from every kind of checkpoint; models that do not fit the adapter; exports."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safemerge import Checkpoint, export_model, similarity_table
from safemerge.errors import UserError
from safemerge.export import push_to_hub
from tests.conftest import Pico
from tests.pico import build_model, deltas, save_pair, write_lora

Q = "model.layers.0.self_attn.q_proj"


def rhos(base: Any, aligned: Any, adapter: Path) -> list[float]:
    return [row.rho for row in similarity_table(base=base, aligned=aligned, adapter=adapter)]


def rewrite(source: Path, target: Path, change: Any) -> Path:
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors")
    return target


def test_sharded_and_bin_checkpoints_give_the_same(pico: Pico, tmp_path: Path) -> None:
    expected = rhos(pico.base, pico.aligned, pico.task)
    base, aligned = save_pair(tmp_path, pico.family, max_shard_size="20KB")
    assert len(list(base.glob("*.safetensors"))) > 2
    again = write_lora(tmp_path / "task", rank=4, alpha=8, seed=1)
    assert rhos(base, aligned, again) == expected
    for source, target in ((pico.base, "bin_base"), (pico.aligned, "bin_aligned")):
        (tmp_path / target).mkdir()
        torch.save(load_file(source / "model.safetensors"), tmp_path / target / "pytorch_model.bin")
    assert rhos(tmp_path / "bin_base", tmp_path / "bin_aligned", again) == expected


def test_vocabulary_prefix_and_dtype_may_differ(pico: Pico, tmp_path: Path) -> None:
    def shrink(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:50].clone()
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name).double()

    base = rewrite(pico.base, tmp_path / "base", shrink)
    assert rhos(base, pico.aligned, pico.task) == pytest.approx(
        rhos(pico.base, pico.aligned, pico.task), abs=1e-7
    )


def test_a_missing_v_is_flagged(pico: Pico) -> None:
    rows = similarity_table(base=pico.aligned, aligned=pico.aligned, adapter=pico.task)
    assert all(row.rho == 0 and row.flags == ("zero_v",) for row in rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{Q}.weight"), f"module {Q} of the adapter has no weight"),
        (lambda t: t.update({f"{Q}.weight": torch.ones(32, 31)}), f"{Q} is .* in the aligned model and"),
        (lambda t: t[f"{Q}.weight"].fill_(float("nan")), f"{Q} of .* NaN or infinite"),
        (lambda t: t.update({f"{Q}.weight": torch.ones(32, 32).to(torch.uint8)}), f".{Q} is stored as uint8"),
        (lambda t: t.update({f"{Q}.qweight": t.pop(f"{Q}.weight")}), f"is quantised .it has {Q}.qweight"),
    ],
)
def test_unusable_bases_are_refused(pico: Pico, tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rhos(rewrite(pico.base, tmp_path / "base", change), pico.aligned, pico.task)


def test_foreign_models_are_refused(pico: Pico, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was trained on"):
        rhos(pico.aligned, pico.base, pico.task)  # the two models swapped
    hub = write_lora(tmp_path / "hub", base="org/other")
    with pytest.raises(UserError, match=r"trained on org/other, but the aligned model is org/chat"):
        similarity_table(base="org/base", aligned="org/chat", adapter=hub)
    wide = write_lora(tmp_path / "wide", shapes={Q: (32, 40)})
    with pytest.raises(UserError, match=f"{Q} is .* in the model but the adapter is for"):
        rhos(pico.base, pico.aligned, wide)


def test_a_moved_copy_of_the_aligned_model_is_accepted(pico: Pico, tmp_path: Path) -> None:
    shutil.copytree(pico.aligned, tmp_path / "elsewhere")
    assert rhos(pico.base, tmp_path / "elsewhere", pico.task)


def test_hub_models_fetch_only_the_shards_they_need(
    pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    base, aligned = save_pair(tmp_path, pico.family, max_shard_size="20KB")
    folders = {"org/base": base, "org/aligned": aligned}
    fetched: list[tuple[str, str, str | None]] = []

    def download(name: str, filename: str, *, repo_type: str, revision: str | None) -> str:
        assert repo_type == "model"
        if not (folders[name] / filename).is_file():
            raise errors.EntryNotFoundError(filename)
        fetched.append((name, filename, revision))
        return str(folders[name] / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    one = write_lora(tmp_path / "one", shapes={Q: (32, 32)})
    assert rhos("org/base@abc", "org/aligned", one) == rhos(base, aligned, one)
    shard = Checkpoint(base).shards[f"{Q}.weight"]
    weights = {entry for entry in fetched if entry[1].endswith(".safetensors")}
    assert weights == {("org/base", shard, "abc"), ("org/aligned", shard, None)}


def test_weights_are_mapped_not_copied(pico: Pico) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    weight = Checkpoint(pico.base).weight(Q)
    assert str(pico.base / "model.safetensors") in maps.read_text()
    del weight
    assert str(pico.base / "model.safetensors") not in maps.read_text()


@pytest.mark.parametrize("sharded", [False, True])
def test_an_exported_model_is_the_aligned_one_plus_dw(pico: Pico, tmp_path: Path, sharded: bool) -> None:
    from transformers import AutoModelForCausalLM

    options = {"max_shard_size": "20KB"} if sharded else {}
    _, aligned = save_pair(tmp_path, pico.family, **options)
    counts = export_model(aligned=aligned, adapter=pico.task, output=tmp_path / "full")
    assert (counts["shards"] > 1, counts["modules"]) == (sharded, 14)
    task = deltas(pico.task)
    before = build_state(aligned)
    for name, found in AutoModelForCausalLM.from_pretrained(tmp_path / "full").state_dict().items():
        delta = task.get(name.removesuffix(".weight"), 0)
        assert torch.allclose(found.double(), before[name].double() + delta, atol=1e-6), name


def build_state(folder: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_pushing_uploads_the_folder_and_reports_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    calls: list[tuple[str, dict[str, Any]]] = []

    class Api:
        def create_repo(self, name: str, **options: Any) -> None:
            calls.append((name, options))

        def upload_folder(self, **options: Any) -> str:
            calls.append(("upload", options))
            return "https://hub/org/name"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert push_to_hub(tmp_path, "org/name") == "https://hub/org/name"
    assert calls[0] == ("org/name", {"private": True, "exist_ok": True})
    assert calls[1][1]["folder_path"] == str(tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no token\nat all")

    monkeypatch.setattr(Api, "create_repo", refuse)
    with pytest.raises(UserError, match="cannot push to org/name: no token; log in"):
        push_to_hub(tmp_path, "org/name")


def test_fingerprints_tell_models_apart(pico: Pico) -> None:
    assert Checkpoint(pico.base).fingerprint() == Checkpoint(pico.base).fingerprint()
    assert Checkpoint(pico.base).fingerprint() != Checkpoint(pico.aligned).fingerprint()


def test_the_pico_models_have_what_the_tests_need() -> None:
    qwen = dict(build_model("qwen2").named_parameters())
    assert qwen[f"{Q}.bias"].abs().sum() > 0
    assert qwen[Q.replace("q_proj", "k_proj") + ".weight"].shape == (16, 32)
