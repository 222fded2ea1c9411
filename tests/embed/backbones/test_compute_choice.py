"""Number type, attention and layout: chosen by timings, remembered, forced, asked for, and kept by everything that goes
on."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from pellucid.cohort.errors import UserError
from pellucid.embed.backbones.backbone import Backbone, load_backbone
from pellucid.embed.backbones.compute_choice import (
    CACHE,
    CHOICES,
    FORCED,
    LEAST_GAIN,
    Compute,
    Hardware,
    apply,
    best_of,
    cache_path,
    choose,
    kept,
    measured,
    possible,
)
from pellucid.embed.extract.plain_folder import embed_folder
from pellucid.embed.store.vectors import load_vectors

VIT, MAP = "test_vit", "test_resnet"
PLAIN = Hardware("cpu", "a processor without bfloat16", "")
FLAG = Hardware("cpu", "a processor with bfloat16", "bfloat16")
V100, H100 = Hardware("cuda", "V100", "float16"), Hardware("cuda", "H100", "bfloat16")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is decided by timing, and remembered in a folder of the test's own."""
    monkeypatch.delenv(FORCED)
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))


def network(name: str) -> torch.nn.Module:
    return timm.create_model(name, num_classes=0).eval()


def table(**seconds: float) -> dict[str, float]:
    """Seconds by the first letters of number type, attention and layout: `b_e_c`."""
    return seconds


def chosen_by(seconds: dict[str, float], hardware: Hardware, name: str = VIT, asked: str = "auto") -> Compute:
    def one_pass(option: Compute) -> float:
        return seconds["_".join(word[:2] for word in (option.precision, option.attention, option.layout))]

    return choose(network(name), one_pass, work="test", hardware=hardware, asked=asked, budget_s=0)


def test_a_processor_without_bfloat16_is_not_asked_for_it() -> None:
    chosen = chosen_by(table(fl_fu_co=1.0, fl_ex_co=1.2), PLAIN)
    assert (chosen.precision, chosen.attention, chosen.layout) == ("float32", "fused", "contiguous")
    assert chosen.reason == "timed"
    assert set(chosen.seconds) == {"float32, fused attention", "float32, explicit attention"}
    assert chosen.device == PLAIN.name


def test_a_flag_that_is_slow_is_not_believed() -> None:
    """AVX-512 bf16 without AMX: 0.55 times the speed of float32, and explicit attention loses a fifth."""
    chosen = chosen_by(table(fl_fu_co=1.0, fl_ex_co=1.23, bf_fu_co=1.61, bf_ex_co=1.59), FLAG)
    assert str(chosen) == "float32, fused attention"


def test_a_flag_that_is_fast_is_used_with_the_kernel_that_is_fast() -> None:
    chosen = chosen_by(table(fl_fu_co=1.0, fl_ex_co=1.23, bf_fu_co=0.45, bf_ex_co=0.34), FLAG)
    assert str(chosen) == "bfloat16, explicit attention"


def test_layout_and_number_type_are_timed_together() -> None:
    """EfficientNet-lite0: bfloat16 beats float32, but not float32 in channels_last."""
    chosen = chosen_by(table(fl_fu_co=54, fl_fu_ch=32, bf_fu_co=37, bf_fu_ch=36), FLAG, MAP)
    assert str(chosen) == "float32, fused attention, channels_last"


@pytest.mark.parametrize(("hardware", "half"), [(V100, "float16"), (H100, "bfloat16")])
def test_a_gpu_takes_the_type_that_it_has(hardware: Hardware, half: str) -> None:
    chosen = chosen_by({"fl_fu_co": 1.0, f"{half[:2]}_fu_co": 0.4}, hardware, VIT) if half == "bfloat16" else None
    if chosen is None:  # float32 and float16 begin alike
        ways = possible(network(VIT), hardware)
        chosen = best_of(dict(zip(ways, (1.0, 0.4), strict=True)))
    assert (chosen.precision, chosen.attention) == (half, "fused")


def test_fewer_digits_must_be_worth_it() -> None:
    ways = possible(network(VIT), FLAG)
    gain = {way: 1.0 if way.precision == "float32" else 1.0 / (LEAST_GAIN - 0.02) for way in ways}
    assert best_of(gain).precision == "float32"


def test_what_is_hopeless_is_not_repeated() -> None:
    ran: list[str] = []
    ways = possible(network(VIT), FLAG)

    def one_pass(option: Compute) -> float:
        ran.append(option.precision)
        return 1.0 if option.precision == "bfloat16" else 0.1

    measured(ways, one_pass, budget_s=0.01)
    assert ran.count("bfloat16") == 4, "twice each: to warm up, and to know"
    assert ran.count("float32") > 4


def test_what_is_asked_for_is_honoured_and_its_kernel_is_timed_nevertheless() -> None:
    chosen = chosen_by(table(bf_fu_co=0.4, bf_ex_co=0.3), PLAIN, asked="bfloat16")
    assert (str(chosen), chosen.reason) == ("bfloat16, explicit attention", "asked for")
    with pytest.raises(UserError, match="float16 is for GPUs: choose auto, float32 or bfloat16 on a CPU"):
        chosen_by({}, FLAG, asked="float16")
    assert [way.precision for way in possible(network(VIT), V100, "float16")] == ["float16"]


def test_the_environment_forces_auto_without_any_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORCED, "bfloat16")
    chosen = chosen_by({}, FLAG)
    assert (chosen.precision, chosen.attention, chosen.reason) == ("bfloat16", "explicit", "forced")
    asked = chosen_by({}, FLAG, asked="float32")
    assert str(asked) == "float32, fused attention", "what a user writes comes before the environment"
    monkeypatch.setenv(FORCED, "half")
    with pytest.raises(UserError, match="the environment variable PELLUCID_PRECISION is `half`"):
        chosen_by({}, FLAG)


def test_it_is_timed_once_for_each_network_machine_and_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: Compute) -> float:
        raise AssertionError("it is known already")

    first = chosen_by(table(fl_fu_co=1.0, fl_ex_co=0.5), PLAIN)
    CHOICES.clear()  # another process
    again = choose(network(VIT), never, work="test", hardware=PLAIN, budget_s=0)
    assert again == first
    assert again.seconds == first.seconds
    for other in ({"hardware": FLAG}, {"threads": 2}, {"work": "another size"}):
        with pytest.raises(AssertionError):
            choose(network(VIT), never, **{"work": "test", "hardware": PLAIN, "budget_s": 0, **other})  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        choose(network("test_vit2"), never, work="test", hardware=PLAIN, budget_s=0)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"%s": 3}', '{"%s": {"precision": "float8"}}'])
def test_a_damaged_cache_is_timed_again(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen_by(table(fl_fu_co=1.0, fl_ex_co=0.5), PLAIN)
    (key,) = json.loads(cache_path().read_text(encoding="utf-8"))
    cache_path().write_text(damage.replace("%s", key), encoding="utf-8")
    CHOICES.clear()
    assert chosen_by(table(fl_fu_co=0.5, fl_ex_co=1.0), PLAIN).attention == "fused"
    assert key in json.loads(cache_path().read_text(encoding="utf-8"))


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv(CACHE, str(tmp_path / "file" / "cache"))
    assert chosen_by(table(fl_fu_co=1.0, fl_ex_co=0.5), PLAIN).attention == "explicit"
    assert chosen_by({}, PLAIN).attention == "explicit", "this process remembers"


@pytest.mark.parametrize("name", [VIT, MAP])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_kernel_and_layout_change_no_vector_but_by_rounding(name: str, precision: str) -> None:
    """On every CPU, bfloat16 emulated where need be. Against float32, 12 or so roundings of 2⁻⁹; between ways, the
    same."""
    plain = load_backbone(f"timm-random:{name}", "cpu", compute=Compute())
    pixels = np.random.default_rng(0).integers(0, 256, (3, plain.size_px, plain.size_px, 3), dtype=np.uint8)
    expected = plain(pixels)
    rounding = (2e-5 if precision == "float32" else 0.05) * float(np.abs(expected).max())
    for way in possible(plain.model, FLAG, precision):  # type: ignore[arg-type]
        backbone = load_backbone(f"timm-random:{name}", "cpu", compute=way)
        assert np.allclose(backbone(pixels), expected, atol=rounding), way
        assert np.array_equal(backbone.packed()(pixels), backbone(pixels)), "weights cast once are those cast each time"
        assert backbone.space == plain.space
        assert backbone.spec()["computed_in"] == precision


def test_a_real_timing_ends_in_a_choice_that_is_recorded() -> None:
    backbone = load_backbone(f"timm-random:{MAP}", "cpu")
    state = torch.get_rng_state()
    said = backbone.spec()["compute"]
    assert torch.equal(torch.get_rng_state(), state)
    assert said["reason"] == "timed"
    assert {"float32, fused attention", "float32, fused attention, channels_last"} <= set(said["seconds"])
    assert Compute.from_record(json.loads(json.dumps(said))) == backbone.computing
    assert said["threads"] == 1
    assert "ms" in backbone.computing.sentence()


def test_a_store_of_an_earlier_version_says_its_type() -> None:
    assert str(Compute.from_spec({"computed_in": "bfloat16"})) == "bfloat16, explicit attention"
    assert str(Compute.from_spec({})) == "float32, fused attention"


def test_a_network_is_as_it_was_after_a_look() -> None:
    for name in (VIT, MAP):
        model = network(name)
        before = {key: (value.clone(), value.stride()) for key, value in model.state_dict().items()}
        with kept(model):
            apply(model, Compute("float32", "explicit", "channels_last"))
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[key][0])
            assert value.stride() == before[key][1]
        flags = {module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")}
        assert flags <= {True}


# --- what goes on in one number type ---


def pictures(folder: Path, count: int, start: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(start)
    for k in range(start, start + count):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{k:02d}.png")
    return folder


def test_added_images_are_computed_as_the_first_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, out = pictures(tmp_path / "pictures", 5), tmp_path / "out"
    monkeypatch.setenv(FORCED, "bfloat16")
    embed_folder(folder, "timm-random:test_vit@32", out, progress=False)
    first = load_vectors(out)
    assert first.spec["computed_in"] == "bfloat16"
    assert first.spec["compute"]["reason"] == "forced"
    pictures(folder, 4, start=5)
    monkeypatch.setenv(FORCED, "float32")
    capfd.readouterr()
    embed_folder(folder, "timm-random:test_vit@32", out, progress=False)
    assert "new images are computed in bfloat16, the number type of the vectors in" in capfd.readouterr().err
    both = load_vectors(out)
    assert (len(both.values), both.spec["computed_in"], both.spec["taken_over"]) == (9, "bfloat16", 5)
    monkeypatch.setenv(FORCED, "bfloat16")
    embed_folder(folder, "timm-random:test_vit@32", tmp_path / "anew", progress=False)
    anew = load_vectors(tmp_path / "anew")
    assert np.array_equal(both.values[5:], anew.values[5:]), "not those of float32"
    with pytest.raises(
        UserError, match=r"its vectors were computed in bfloat16, but embed\.precision=float32 was given: omit"
    ):
        embed_folder(folder, "timm-random:test_vit@32", out, progress=False, precision="float32")


def test_an_interrupted_extraction_goes_on_in_the_type_it_was_begun_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, out = pictures(tmp_path / "pictures", 40), tmp_path / "out"
    read, calls = Backbone.read, []

    def breaking(self: Backbone, pixels: np.ndarray, **options: bool) -> object:
        calls.append(len(pixels))
        if len(calls) > 2:
            raise KeyboardInterrupt
        return read(self, pixels, **options)

    monkeypatch.setenv(FORCED, "bfloat16")
    monkeypatch.setattr(Backbone, "read", breaking)
    with pytest.raises(KeyboardInterrupt):
        embed_folder(folder, "timm-random:test_vit@32", out, progress=False, batch_size=8, workers=1)
    monkeypatch.setattr(Backbone, "read", read)
    monkeypatch.setenv(FORCED, "float32")
    embed_folder(folder, "timm-random:test_vit@32", out, progress=False, batch_size=8, workers=1)
    assert "embedding: resuming in bfloat16, the number type of the interrupted run" in capfd.readouterr().err
    monkeypatch.setenv(FORCED, "bfloat16")
    embed_folder(folder, "timm-random:test_vit@32", tmp_path / "calm", progress=False, batch_size=8, workers=1)
    assert np.array_equal(load_vectors(out).values, load_vectors(tmp_path / "calm").values)


def test_the_way_of_computing_can_be_sent_to_another_process() -> None:
    chosen = Compute("bfloat16", "explicit", "contiguous", "timed", {"a": 1.0}, "processor", 1)
    assert Compute.from_record(chosen.record()) == chosen
    assert dataclasses.asdict(Compute.from_record(chosen.record())) == dataclasses.asdict(chosen)
    assert os.environ[CACHE]
