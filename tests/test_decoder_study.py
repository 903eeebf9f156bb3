"""The study of slim decoders, end to end at toy size, and which of them are equal."""

from dataclasses import replace

import pytest
import torch

from srdd import decoder_study
from srdd.data import fashion_slice
from srdd.decoder_study import EQUAL, STUDENTS, DecoderStudy, Size, Student
from srdd.distillation import PaintedMaps, sharpened
from srdd.experiments import Setting, measure_slim_decoder
from srdd.records import read_record
from srdd.studies import SEEDS

TINY = Size(steps=2, sharp_steps=1, critic_steps=2, maps=20, images=140)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    made = DecoderStudy(tmp_path_factory.mktemp("runs"), None, size=TINY)
    made.train = fashion_slice().subset(range(200))
    made.test = fashion_slice().subset(range(200, 340))
    return made


def test_a_sharp_student_goes_on_from_the_one_that_is_not(study, monkeypatch):
    plain, seen = Student("10 x 2"), {}
    first = study.trained(plain, 0)

    def stop(task, config, work, **_):
        seen.update(pictures=task.stream.pictures, steps=config.steps)
        return task.student

    monkeypatch.setattr(decoder_study, "fit", stop)
    sharp = study.trained(replace(plain, sharp=True), 0)
    before, after = (x.decoder.state_dict() for x in (first, sharp))
    assert all(torch.equal(before[key], after[key]) for key in before)
    pictures = PaintedMaps(study.tokenizer, study.maps, 4).pictures
    assert torch.equal(seen["pictures"], sharpened(pictures, study.strength))
    assert seen["steps"] == TINY.sharp_steps != TINY.steps


def test_pictures_are_sharpened_as_the_photographs_of_the_training_ask(study):
    assert 0 < study.strength < 0.2
    plain, sharp = study.teacher(), study.teacher(sharp=True)
    assert plain["psnr_db to the teacher's"] > 100 > sharp["psnr_db to the teacher's"]
    assert set(plain) == set(sharp) and plain["samples, rel_fd"] > 0


def test_the_experiment_compares_every_student_with_the_teacher(study, monkeypatch):
    few = (Student("10 x 2"), Student("10 x 2", sharp=True), STUDENTS[2])
    monkeypatch.setattr(decoder_study, "STUDENTS", few)
    monkeypatch.setattr(decoder_study, "SEEDS", (0, 1))
    monkeypatch.setattr("srdd.experiments.SEEDS", (0, 1))
    monkeypatch.setattr(decoder_study, "DecoderStudy", lambda *_: study)
    values = measure_slim_decoder(Setting(work=str(study.work)))["values"]
    for student in few:
        ratio = values[f"{student.name}/rel-FD / teacher's"]
        own, whole = (values[f"{n}/rel_fd"] for n in (student.name, "teacher"))
        assert ratio["n"] == 2
        assert ratio["mean"] == pytest.approx(own["mean"] / whole["mean"])
        assert 0.3 < values[f"{student.name}/share of the operations"]["mean"] < 0.4
    assert values["size/steps"]["mean"] == 2
    monkeypatch.setattr("srdd.decoder_study.fit", lambda *a, **k: pytest.fail("fit"))
    monkeypatch.setattr(DecoderStudy, "quality", lambda *a: pytest.fail("measured"))
    assert measure_slim_decoder(Setting(work=str(study.work)))["values"] == values


def test_the_record_has_every_student_and_one_is_as_good_as_its_teacher():
    record = read_record("slim-decoder")
    ratios = {s.name: record.values[f"{s.name}/rel-FD / teacher's"] for s in STUDENTS}
    assert {x["n"] for x in ratios.values()} == {len(SEEDS)}
    good = {name for name, x in ratios.items() if x["mean"] <= EQUAL}
    assert good == {"10 x 2, sharpened"}
    assert torch.isfinite(
        torch.tensor([v["mean"] for v in record.values.values()])
    ).all()
