"""What a machine can run out of in the middle of a stage, in one line with the remedy: disk, memory, an engine."""

from __future__ import annotations

import errno

from safemerge.errors import causes, first_line, full_disk

AGAIN = "rerun the same command to resume"
#: What to set when a stage's memory does not suffice. None of it changes a result.
SMALLER = {
    "finetune": "halve train.args.per_device_train_batch_size and double train.args.gradient_accumulation_steps",
    "generate": "lower generation.max_num_seqs or generation.max_loras",
    "judge": "lower generation.max_num_seqs",
    "parity": "lower generation.max_num_seqs",
    "likelihood": "lower generation.max_num_seqs",
}
#: vLLM's, which is not imported for it, and ours.
_ENGINE = ("EngineDeadError", "EngineGenerateError", "EngineDiedError")
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_SUCH_PLACE = (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EEXIST, errno.EISDIR)


def explained(error: BaseException, stage: str = "") -> str | None:
    """What ran out, and what to do; None: it is another kind of error.

    stage: that was at work, for its own settings.
    """
    for cause in causes(error):
        path = getattr(cause, "filename", None)
        where = f" ({path})" if path else ""
        number = getattr(cause, "errno", None)
        if full_disk(cause):
            return f"the disk is full{where}: free some space, or set store=DIR on a larger one; then {AGAIN}"
        if isinstance(cause, OSError) and number == errno.EFBIG:
            return f"a file may grow no further{where}: raise the limit on the size of files (ulimit -f); then {AGAIN}"
        if isinstance(cause, OSError) and number in _NOT_WRITABLE:
            remedy = "set store=DIR and runs=DIR to folders that can"
            return f"{path or 'a file'} cannot be read or written ({cause.strerror}): {remedy}"
        if isinstance(cause, OSError) and number in _NO_SUCH_PLACE:
            remedy = "give store=, runs= or a data file another path"
            return f"{path or 'a path'} cannot be used ({cause.strerror}): {remedy}"
        if _no_memory(cause):
            smaller = SMALLER.get(stage, "close other programs, or take a smaller model")
            return f"out of memory ({first_line(cause)[:160]}): {smaller}; then {AGAIN}"
        if type(cause).__name__ in _ENGINE:
            return f"the engine died ({first_line(cause)[:160]}); what it had written is kept; {AGAIN}"
    return None


def _no_memory(error: BaseException) -> bool:
    """MemoryError, and what torch and vLLM raise: an error of their own, or a RuntimeError that says so."""
    text = str(error).lower()
    said = any(
        words in text for words in ("out of memory", "can't allocate memory", "cannot allocate memory")
    )
    no_cache = "no available memory for the cache blocks" in text
    named = type(error).__name__ == "OutOfMemoryError"
    return (
        isinstance(error, MemoryError)
        or named
        or (isinstance(error, RuntimeError | OSError | ValueError) and (said or no_cache))
    )
