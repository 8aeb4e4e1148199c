"""The method as a library: what the wheel holds, that it needs nothing of the experiment, and its three functions."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import safemerge
from safemerge import methods
from tests.pico import deltas, save_pair, write_lora

ROOT = Path(__file__).resolve().parents[2]

#: Runs in an interpreter that knows the wheel, the standard library and the packages that the wheel requires.
STRANGER = """
import importlib.metadata, json, re, sys

wheel, base, aligned, task, safety, output = sys.argv[1:]
sys.path.insert(0, wheel)

def needed(name, seen):
    key = re.sub(r"[-_.]+", "_", name).lower()
    if key in seen:
        return seen
    try:
        requires = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return seen
    seen.add(key)
    for line in requires:
        if "extra ==" not in line:
            needed(re.match(r"[\\w.-]+", line)[0], seen)
    return seen

allowed = needed("safemerge", set())
owners = importlib.metadata.packages_distributions()
allowed_modules = {m for m, ds in owners.items() if {re.sub(r"[-_.]+", "_", d).lower() for d in ds} & allowed}

class Nothing_else:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in owners and top not in allowed_modules or top in ("pipeline", "evaluation", "data", "conf", "tests"):
            raise ModuleNotFoundError(f"not required by the wheel: {name}", name=name)

sys.meta_path.insert(0, Nothing_else())
import safemerge
light = [m for m in ("torch", "numpy", "rich") if m in sys.modules]
found = safemerge.inspect(base=base, aligned=aligned, task_adapter=task, taus=[0.0, "q0.5"])
done = safemerge.repair(
    base=base, aligned=aligned, task_adapter=task, safety_adapter=safety, output=output, tau="q0.5", alpha=0.8
)
from safemerge import cli
code = cli.main(["inspect", "--base", base, "--aligned", aligned, "--task-adapter", task])
print(json.dumps({"from": safemerge.__file__, "light": light, "merged": list(found.merged.values()),
                  "selected": done.selected, "modules": done.modules, "code": code}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built as `pip install .` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, tracked.stdout.split("\0")):  # a build leaves folders behind: not in the clone
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True, timeout=300)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    base, aligned = save_pair(folder)
    made = {name: write_lora(folder / name, seed=seed) for name, seed in (("task", 2), ("safety", 3))}
    return {"base": str(base), "aligned": str(aligned), **{name: str(path) for name, path in made.items()}}


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    names = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"safemerge"}
    metadata = next(n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("METADATA"))
    lines = zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
    needs = [
        line.split()[1].split(">")[0]
        for line in lines
        if line.startswith("Requires-Dist") and "extra" not in line
    ]
    assert {n.partition("<")[0] for n in needs} == {
        "torch",
        "safetensors",
        "numpy",
        "huggingface-hub",
        "rich",
    }


def test_a_stranger_repairs_an_adapter_with_the_wheel_alone(
    wheel: Path, inputs: dict[str, str], tmp_path: Path
) -> None:
    unpacked = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(unpacked)
    arguments = [
        str(unpacked),
        *(inputs[k] for k in ("base", "aligned", "task", "safety")),
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["from"].startswith(str(unpacked)) and found["light"] == [], "import safemerge is light"
    assert found["merged"] == [0, found["modules"] // 2] and len(found["selected"]) == found["modules"] // 2
    assert found["code"] == 0 and (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_repair_is_similarity_then_selection_then_blend(inputs: dict[str, str], tmp_path: Path) -> None:
    models = {k: inputs[k] for k in ("base", "aligned")}
    rows = safemerge.similarity(**models, task_adapter=inputs["task"])
    done = safemerge.repair(
        **models,
        task_adapter=inputs["task"],
        safety_adapter=inputs["safety"],
        output=tmp_path / "out",
        tau="q0.5",
    )
    assert [row.rho for row in done.rows] == [row.rho for row in rows]
    assert done.tau is not None and done.selected == sorted(row.module for row in rows if row.rho < done.tau)
    assert done.point.alpha == methods.ALPHA, "one default, of the function and of the command"
    task, safety, out = (deltas(folder) for folder in (inputs["task"], inputs["safety"], tmp_path / "out"))
    for name, found in out.items():
        expected = 0.8 * task[name] + 0.2 * safety[name] if name in done.selected else task[name]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_another_method_is_a_point(inputs: dict[str, str], tmp_path: Path) -> None:
    models = {k: inputs[k] for k in ("base", "aligned")}
    point = methods.scale(alpha=0.5)[0]
    done = safemerge.repair(**models, task_adapter=inputs["task"], output=tmp_path / "half", point=point)
    assert len(done.selected) == done.modules and done.tau is None
    with pytest.raises(safemerge.UserError, match="safemerge needs a safety adapter"):
        safemerge.repair(**models, task_adapter=inputs["task"], output=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_every_public_name_is_there_and_says_what_it_is() -> None:
    for name in safemerge.__all__:
        assert (getattr(safemerge, name).__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="no attribute 'merge'"):
        safemerge.merge  # noqa: B018
