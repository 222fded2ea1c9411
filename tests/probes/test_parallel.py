import os
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest

from pellucid.cohort.errors import UserError
from pellucid.probes import parallel as module
from pellucid.probes.audit import audit
from pellucid.probes.parallel import Question, Steps, answer_questions, shareable

needs_two_cores = pytest.mark.skipif(joblib.cpu_count() < 2, reason="one core: everything in this process")


def failing(number: int) -> int:
    if number == 2:
        raise UserError("two is refused")
    return number * 10


def total(vectors: np.ndarray) -> float:
    return float(vectors.sum())


def questions(*numbers: int) -> list[Question]:
    return [Question(f"question {number}", failing, (number,)) for number in numbers]


@pytest.mark.long
@pytest.mark.parametrize("work", [0.0, pytest.param(np.inf, marks=[needs_two_cores, pytest.mark.slow])])
def test_answers_come_in_the_order_of_the_questions_and_progress_to_its_end(work: float) -> None:
    told: list[tuple[int, int, str]] = []
    assert answer_questions(questions(5, 3, 9), work, Steps(lambda *step: told.append(step), 3)) == [50, 30, 90]
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[-1] == (3, 3, "done")
    assert {"question 5", "question 3", "question 9"} <= {what for _, _, what in told}


@pytest.mark.long
@pytest.mark.parametrize("work", [0.0, pytest.param(np.inf, marks=needs_two_cores)])
def test_a_refusal_in_a_question_reaches_the_user(work: float) -> None:
    with pytest.raises(UserError, match="two is refused"):
        answer_questions(questions(1, 2, 3), work, Steps(None, 3))
    assert answer_questions(questions(1, 3), work, Steps(None, 2)) == [10, 30]  # and the next audit runs


@pytest.mark.long
@needs_two_cores
def test_workers_settings_do_not_stay_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_questions(questions(1, 3), np.inf, Steps(None, 2))  # the workers are started before the setting is there
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", str(joblib.cpu_count()))
    before = dict(os.environ)
    answer_questions(questions(1, 3), np.inf, Steps(None, 2))
    module.answer_in_worker(0, questions(1)[0], 1, os.getpid())
    assert dict(os.environ) == before
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT")
    assert joblib.Parallel(2)(joblib.delayed(os.getenv)("LOKY_MAX_CPU_COUNT") for _ in range(2)) == [None, None]


@pytest.mark.parametrize("kind", ["changed in memory", "deleted", "a view", "as it is"])
def test_other_processes_see_the_vectors_that_this_one_sees(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "v.npy", np.zeros((50_000, 8), dtype=np.float32))  # over a megabyte: sent as a file
    vectors = np.load(tmp_path / "v.npy", mmap_mode="r" if kind == "as it is" else "c")
    if kind != "as it is":
        vectors[:] = 1.0
    if kind == "deleted":
        (tmp_path / "v.npy").unlink()
    if kind == "a view":
        vectors = np.asarray(vectors)[::2]
    shared = shareable(vectors)
    assert (shared is vectors) == (kind == "as it is")
    both = [Question("sum", total, (shared,))] * 2
    here = float(vectors.sum())
    assert answer_questions(both, np.inf, Steps(None, 2)) == [here, here]


@pytest.mark.long
@needs_two_cores
def test_processes_find_what_one_process_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), 3)
    table = pd.DataFrame({name: rng.integers(0, 2, 60)[patient] for name in ("diagnosis", "device", "operator")})
    vectors = rng.standard_normal((180, 8)).astype(np.float32)
    vectors[:, 0] += 2 * table["diagnosis"]
    vectors[:, 1] += 2 * table["device"]
    table["patient"] = patient
    asked = {"patient": "patient", "clinical": ["diagnosis"], "acquisition": ["device", "operator"], "permutations": 39}
    monkeypatch.setattr(module, "WORTH_PROCESSES", np.inf)
    here = audit(vectors, table, **asked)
    monkeypatch.setattr(module, "WORTH_PROCESSES", 0.0)
    assert audit(vectors, table, **asked) == here
