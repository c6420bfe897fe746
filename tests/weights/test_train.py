"""The embedded checkpoint's training: synthesiser, captions, detectors, and the LM's conditions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from transformers import T5Config, T5EncoderModel

from audiocraft_ext.checkpoint import Checkpoint, load
from audiocraft_ext.checkpoint.locate.source import EMBEDDED
from audiocraft_ext.progress import Progress
from audiocraft_ext.upstream import ConditioningAttributes
from weights.demo.train import captions, codec, detectors, diffusion, lm, synth, text_encoder, tokens

pytestmark = pytest.mark.slow


def draw(seed: int, n_frames: int = 400) -> tuple[synth.Samples, synth.Song]:
    rng = np.random.default_rng(seed)
    song = synth.draw_song(rng)
    return synth.render(song, synth.draw_score(song, rng), n_frames), song


def test_the_same_seed_gives_the_same_samples() -> None:
    assert np.array_equal(draw(3)[0], draw(3)[0])
    assert not np.array_equal(draw(3)[0], draw(4)[0])


def test_a_clip_from_an_offset_is_a_crop_of_the_song() -> None:
    rng = np.random.default_rng(5)
    song = synth.draw_song(rng)
    score = synth.draw_score(song, rng)
    whole = synth.render(song, score, 600)
    crop = synth.render(song, score, 200, offset_frames=333)
    # A note that began more than a bar before the crop would be missing; none is that long.
    assert np.array_equal(crop, whole[333 * synth.FRAME : 533 * synth.FRAME])


@pytest.mark.parametrize("tempo_bpm", synth.TEMPI_BPM)
def test_bars_of_whole_frames_keep_the_named_tempo(tempo_bpm: int) -> None:
    true_bpm = 4 * 60 * synth.FRAME_RATE / synth.BAR_FRAMES[tempo_bpm]
    assert abs(true_bpm / tempo_bpm - 1) < 0.004


def test_every_kick_is_the_same_samples_on_the_frame_grid() -> None:
    song = synth.Song(120, 0, "minor", "bright", frozenset({"kick"}))
    clip = synth.render(song, synth.draw_score(song, np.random.default_rng(0)), 100)
    kick = synth.drum("kick") * np.float32(synth.MASTER_GAIN)
    onsets = list(range(0, 80, 25))
    for frame in onsets:
        played = clip[frame * synth.FRAME :][: len(kick)]
        assert np.allclose(played[: 10 * synth.FRAME], kick[: 10 * synth.FRAME], atol=1e-6)


def test_captions_never_mention_a_held_out_pair() -> None:
    rng = np.random.default_rng(0)
    mentions = [captions.draw_mention(synth.draw_song(rng), rng) for _ in range(2000)]
    assert not any(captions.is_held_out(m.tempo_bpm, m.root) for m in mentions)


def test_a_mention_never_contradicts_its_song() -> None:
    rng = np.random.default_rng(1)
    for _ in range(500):
        song = synth.draw_song(rng)
        mention = captions.draw_mention(song, rng)
        assert mention.wanted <= song.instruments
        assert not mention.excluded & song.instruments


def test_labels_fit_their_sizes() -> None:
    mention = captions.Mention(150, 11, "major", "calm", frozenset({"kick"}), frozenset({"pad"}))
    assert mention.labels() == (8, 12, 2, 5, 1, 0, 0, 0, 0, 2)
    assert all(label < size for label, size in zip(mention.labels(), captions.LABEL_SIZES, strict=True))


@pytest.fixture(scope="module")
def detector_set() -> detectors.Detectors:
    clips = [draw(seed) for seed in range(200)]
    return detectors.fit([wav for wav, _ in clips], [song for _, song in clips])


def test_detectors_are_right_on_unseen_clips(detector_set: detectors.Detectors) -> None:
    clips = [draw(seed) for seed in range(1000, 1040)]
    tempo = [abs(detector_set.tempo_bpm(wav) / song.tempo_bpm - 1) < 0.04 for wav, song in clips]
    present = [len(detector_set.present(wav) ^ song.instruments) for wav, song in clips]
    assert np.mean(tempo) >= 0.9
    assert np.mean(present) <= 0.1 * len(synth.INSTRUMENTS)


def test_the_tempo_detector_knows_an_unseen_tempo(detector_set: detectors.Detectors) -> None:
    song = synth.Song(110, 0, "minor", "bright", frozenset({"kick", "snare", "hats", "bass"}))
    wav = synth.render(song, synth.draw_score(song, np.random.default_rng(2)), 420)
    slowed = np.interp(np.arange(0, len(wav) - 1, 0.95), np.arange(len(wav)), wav).astype(np.float32)
    assert detector_set.tempo_bpm(slowed) == pytest.approx(0.95 * 110, rel=0.02)


def test_a_loop_that_goes_on_is_like_its_source_and_another_is_not() -> None:
    source, _ = draw(3, 400)
    other, _ = draw(4, 400)
    rest = source[-170 * synth.FRAME :]
    assert detectors.likeness(source, 0.5 * rest) > 0.95
    assert detectors.likeness(source[: 230 * synth.FRAME], rest) > 0.8  # another place of the same loop
    assert detectors.likeness(source, other[-170 * synth.FRAME :]) < 0.5


def test_revived_codes_lie_on_encoded_crops() -> None:
    torch.manual_seed(0)
    model = codec.build_codec().train()
    wav = codec.draw_batch(np.random.default_rng(0), 4, 24)
    codec.init_codes(model, [wav])
    book = model.quantizer.vq.layers[0]._codebook
    book.cluster_size[:10] = 0
    book.embed[:10] = 1e6
    codec.revive_codes(model, wav, dead_usage=0.01)
    assert book.embed[:10].abs().max() < 1e3


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "text_encoder"
    tokenizer = text_encoder.train_tokenizer(text_encoder.TextSettings(), folder)
    width = text_encoder.TextSettings.width
    T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=32, num_heads=4, d_ff=64, num_layers=1)
    ).save_pretrained(folder)
    return folder


def test_diffusion_is_trained_on_noise_as_audiocraft_s_schedule_adds_it() -> None:
    _, schedule = diffusion.build_band(OmegaConf.create(diffusion.DIFFUSION_CONFIG))
    clips = codec.draw_batch(np.random.default_rng(0), 3, 10)
    schedule.sample_processor.project_sample(clips)
    schedule.sample_processor.num_samples = 0  # keep its scale
    item = schedule.get_training_item(clips, tensor_step=True)
    clean = schedule.sample_processor.project_sample(clips)
    torch.testing.assert_close(diffusion.add_noise(schedule, clean, item.step, item.noise), item.noisy)


def test_a_second_of_diffusion_training_gives_a_loadable_decoder(tmp_path: Path) -> None:
    settings = diffusion.DiffusionSettings(minutes=0.02, batch=2, crop_frames=8, n_crops=4)
    diffusion.train(settings, tmp_path / diffusion.WORK_FILE)
    diffusion.export(tmp_path, tmp_path)
    embedded = load(str(EMBEDDED), "cpu")
    decoder = Checkpoint(embedded.lm, embedded.codec, None, tmp_path).load_diffusion()
    samples = decoder.decode(torch.zeros(1, 4, 10, dtype=torch.long), Progress())
    assert samples.shape == (1, 1, 10 * synth.FRAME)
    assert samples.isfinite().all()


def test_a_number_is_one_token(text_folder: Path) -> None:
    tokenizer = text_encoder.T5Tokenizer.from_pretrained(text_folder)
    for number in (80, 97, 120, 150, 200):
        assert tokenizer.tokenize(f"{number} BPM")[0] == f"▁{number}"


def test_training_conditions_equal_audiocrafts(text_folder: Path) -> None:
    torch.manual_seed(0)
    model = lm.build_lm(text_folder).eval()
    chroma = model.condition_provider.conditioners["self_wav"]
    wav = torch.from_numpy(draw(0)[0])[None, None]
    asked = [attributes("dark electro 120 bpm", wav), attributes(None, torch.zeros(1, 1, 1))]
    theirs = model.condition_provider(model.condition_provider.tokenize(asked))
    text, mask = lm.pad_texts([tokens.embed(["dark electro 120 bpm"], text_folder)[0], None], 0)
    frames = torch.stack([chroma.chroma(wav)[0, : chroma.chroma_len], torch.zeros(chroma.chroma_len, 12)])
    ours = lm.conditions(model, lm.Batch(torch.zeros(2, 4, 8).long(), frames, text, mask, torch.zeros(2)))
    assert list(ours) == list(theirs)
    for name in theirs:
        # The largest difference ever measured was 5e-4: embeddings are kept in fp16.
        torch.testing.assert_close(ours[name][0], theirs[name][0], atol=2e-3, rtol=0)


def attributes(text: str | None, wav: torch.Tensor) -> ConditioningAttributes:
    from audiocraft.modules.conditioners import WavCondition

    condition = WavCondition(wav, torch.tensor([wav.shape[-1]]), [synth.SAMPLE_RATE], [None])
    return ConditioningAttributes(text={"description": text}, wav={"self_wav": condition})


def test_all_parameters_have_one_optimiser(text_folder: Path) -> None:
    model = lm.build_lm(text_folder)
    optimisers = lm.make_optimisers(model, lm.LMSettings())
    parameters = [p for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]]
    assert len(parameters) == len({id(p) for p in parameters}) == len(list(nn.Module.parameters(model)))
