"""One training: request → data set → tokens → loop → archive. Knows nothing of cog and of command lines."""

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from audiocraft_ext import checkpoint, memory, musicgen
from audiocraft_ext.checkpoint import Checkpoint
from audiocraft_ext.checkpoint.locate import source
from audiocraft_ext.checkpoint.read import formats
from audiocraft_ext.errors import DISK_FULL, TrainingError
from audiocraft_ext.progress import Progress, SilentProgress
from audiocraft_ext.request import Request
from audiocraft_ext.settings import EngineSettings, Settings
from audiocraft_ext.training import export, processes, report
from audiocraft_ext.training.dataset import Dataset, read_dataset
from audiocraft_ext.training.loop import LoopSettings, Outcome, StepReport, fine_tune
from audiocraft_ext.training.report import Sample
from audiocraft_ext.training.request import TrainingRequest
from audiocraft_ext.training.songs import file_hash
from audiocraft_ext.training.tokens import Example, check_near_duplicates, encode
from audiocraft_ext.upstream import builders

ARCHIVE = "trained_model.tar"
_SAMPLE_S = 8
_N_CAPTIONS = 3
# The base's clips of them, made before the training, measure how much of it is forgotten.
_PLAIN_PROMPTS = (
    "upbeat electronic music with drums and bass",
    "a calm piano melody",
    "a rock song with electric guitars and drums",
    "slow ambient pads",
)
_Seeded = Sequence[tuple[int, str]]
_PLAIN_SEED = 1000  # of the first: the training is the same whatever the number of other prompts


@dataclass(frozen=True)
class TrainingSettings:
    """The environment's part. ``cache`` keeps tokens, and what an unfinished training goes on from."""

    device: str
    cache: Path
    engine: EngineSettings

    @staticmethod
    def from_environment() -> "TrainingSettings":
        """``MUSICGEN_*`` and ``XDG_CACHE_HOME``, as the server reads them; raises ``ValueError``."""
        server = Settings.from_environment(1)
        return TrainingSettings(server.device, source.cache_folder(), server.engine)


def train(
    request: TrainingRequest,
    settings: TrainingSettings,
    progress: Progress,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> Path | None:
    """The archive of the fine-tuned weights, a new file that the caller moves; None in torchrun's other processes.

    The same call goes on where one that was stopped or killed has ended. Raises ``InputError``, ``CheckpointError``,
    ``TrainingError``, and ``Cancelled`` after ``progress.stop()``, once the state is saved.
    """
    rank, _ = processes.join()
    base_name = name_base(request)
    with _work_folder(request, base_name, settings, rank) as folder:
        base = _load_base(base_name, request, settings)
        dataset = _read_dataset(request, base, folder / "data", progress)
        train_set, held_out = _encode(dataset, base, settings.cache / "tokens", progress)
        prompts = choose_prompts(request, dataset)
        seeded = [*enumerate(prompts), *enumerate(_PLAIN_PROMPTS, _PLAIN_SEED)]
        before = audition(base_name, seeded, settings, progress)
        outcome = _fine_tune(base, request, train_set, held_out, before, folder / "state", progress, on_step)
        del base
        if rank:
            return None
        out = _export(outcome, base_name, request, folder / "out")
        after = audition(str(out), seeded[: len(prompts)], settings, progress)
        report.write(out, request, base_name, dataset, outcome, before, after)
        archive = _pack(out, settings.cache)
        shutil.rmtree(folder)
    return archive


def name_base(request: TrainingRequest) -> str:
    """The base as an adapter names it: a hub id, a URL, an absolute path, or ``embedded``."""
    if request.model_version is not None:
        return f"facebook/musicgen-{request.model_version}"
    name = checkpoint.default_weights(None)
    if not os.path.exists(name):
        return name
    path = Path(name).resolve()
    return source.EMBEDDED_NAME if path == source.EMBEDDED.resolve() else str(path)


@contextmanager
def _work_folder(request: TrainingRequest, base: str, settings: TrainingSettings, rank: int) -> Iterator[Path]:
    """The folder of this training alone, by its inputs and data; errors of writing there are ``TrainingError``."""
    path = request.dataset_path
    data = str(path.resolve()) if path.is_dir() else file_hash(path)
    key = json.dumps([request.settings(), base, data], sort_keys=True)
    folder = settings.cache / "trainings" / hashlib.sha256(key.encode()).hexdigest()[:16]
    lock = FileLock(f"{folder}.lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock if rank == 0 else nullcontext():
            yield folder
    except Timeout:
        raise TrainingError("The same training is already running: wait for it, or change an input.") from None
    except (OSError, SafetensorError) as error:
        cache, is_other = settings.cache, isinstance(error, OSError) and error.errno not in DISK_FULL
        if is_other and str(cache) not in str(getattr(error, "filename", "")):
            raise
        raise TrainingError(
            f"The training cannot be written to {cache}: {getattr(error, 'strerror', error)}. Free some space or set "
            "XDG_CACHE_HOME; the same training goes on from there."
        ) from error


def _load_base(name: str, request: TrainingRequest, settings: TrainingSettings) -> Checkpoint:
    """Adapters leave the weights alone, so half of the precision is enough for these on a GPU."""
    is_half = settings.device == "cuda" and request.method == "lora"
    return checkpoint.load(name, settings.device, torch.bfloat16 if is_half else torch.float32)


def _read_dataset(request: TrainingRequest, base: Checkpoint, workdir: Path, progress: Progress) -> Dataset:
    dataset = read_dataset(
        request.dataset_path,
        workdir,
        window_s=float(base.lm.cfg.dataset.segment_duration),
        one_same_description=request.one_same_description,
        trigger_word=request.trigger_word,
        auto_labeling=request.auto_labeling,
        drop_vocals=request.drop_vocals,
        held_out=request.held_out,
        seed=request.seed,
        channels=builders.get_wrapped_compression_model(base.codec, base.lm.cfg).channels,
        progress=progress,
    )
    for line in (*dataset.notes, report.data_line(dataset)):
        print(line, flush=True)
    return dataset


def _encode(dataset: Dataset, base: Checkpoint, cache: Path, progress: Progress) -> tuple[list[Example], list[Example]]:
    """Examples to train on, and held-out ones."""
    pieces = [*dataset.train, *dataset.held_out]
    examples = encode(pieces, base, cache, lambda n, total: progress.update(n, total, unit="clip"))
    train_set, held_out = examples[: len(dataset.train)], examples[len(dataset.train) :]
    check_near_duplicates(train_set, held_out, base)
    return train_set, held_out


def choose_prompts(request: TrainingRequest, dataset: Dataset) -> list[str]:
    """``sample_prompts``; by default captions of held-out songs, the trigger word alone, and a plain prompt."""
    if request.prompts:
        return request.prompts
    captions = dict.fromkeys(piece.caption for piece in dataset.held_out or dataset.train)
    trigger = [request.trigger_word] if request.trigger_word else []
    return list(dict.fromkeys([*list(captions)[:_N_CAPTIONS], *trigger, _PLAIN_PROMPTS[0]]))


def audition(weights: str, prompts: _Seeded, settings: TrainingSettings, progress: Progress) -> list[Sample]:
    """One clip a seed and prompt, as the server plays them. Raises ``Cancelled``."""
    model = musicgen.load(weights, settings.device, settings.engine, smoke_test=False)
    duration = min(_SAMPLE_S, int(model.checkpoint.lm.cfg.dataset.segment_duration))
    silent, samples = SilentProgress(), []
    try:
        with progress.on_cancel(silent.stop):
            for seed, prompt in prompts:
                request = Request(prompt=prompt, duration=duration, seed=seed)
                with torch.inference_mode():
                    generator = musicgen.RequestMusicGen(model, request, silent)
                    audio, tokens = generator.generate([prompt], return_tokens=True)
                # Copied out of inference mode, where gradients cannot follow.
                samples.append(
                    Sample(request, tokens[0].cpu().clone(), audio[0].float().cpu().clone(), model.sample_rate)
                )
    finally:
        model.close()
        del model
        memory.collect()
    return samples


def _fine_tune(
    base: Checkpoint,
    request: TrainingRequest,
    train_set: list[Example],
    held_out: list[Example],
    before: Sequence[Sample],
    folder: Path,
    progress: Progress,
    on_step: Callable[[StepReport], None],
) -> Outcome:
    n_steps = request.n_steps(len(train_set))
    settings = LoopSettings(
        method=request.method,
        rank=request.lora_rank,
        lr=request.learning_rate,
        n_steps=n_steps,
        batch_size=request.batch_size,
        warmup=request.n_warmup(n_steps),
        lr_scheduler=request.lr_scheduler,
        cfg_p=request.cfg_p,
        save_every=request.save_every,
        evaluate_every=request.evaluate_every(n_steps),
        seed=request.seed,
    )
    log = report.StepLog()

    def report_step(step: StepReport) -> None:
        log(step)
        on_step(step)
        progress.check()

    music = [Example(s.tokens.to(torch.int16), str(s.request.prompt), "") for s in before[-len(_PLAIN_PROMPTS) :]]
    outcome = fine_tune(base.lm, train_set, held_out, settings, folder, report_step, music)
    for line in (*outcome.notes, outcome.verdict):
        print(line, flush=True)
    return outcome


def _export(outcome: Outcome, base_name: str, request: TrainingRequest, out: Path) -> Path:
    """Write what ``MUSICGEN_WEIGHTS`` loads."""
    shutil.rmtree(out, ignore_errors=True)  # left by a killed process
    if request.method == "full":
        export.write_full(outcome.state, base_name, out)
    else:
        export.write_adapter(outcome.state, base_name, formats.hashes_of_base(base_name), request.lora_rank, out)
    return out


def _pack(out: Path, cache: Path) -> Path:
    archive = out.with_name(ARCHIVE)
    with tarfile.open(archive, "w") as tar:
        for file in sorted(out.iterdir()):
            tar.add(file, file.name)
    return archive.rename(Path(tempfile.mkdtemp(prefix="trained-", dir=cache)) / ARCHIVE)
