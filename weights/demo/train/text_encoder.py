"""Train the text encoder: a T5 of 0.4 M parameters and its tokenizer. Knows nothing of audio.

    python -m weights.demo.train.text_encoder

It learns to name, at every token, all that the caption says (tempo, key, mood, each instrument wanted or not). Frozen
afterwards, it leaves the LM only a projection to learn.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from weights.demo.train import captions, synth

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
# transformers' T5Tokenizer keeps only the vocabulary of a tokenizer.json and splits text like this itself.
_SPLIT = pre_tokenizers.Sequence(
    [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)]
)


@dataclass(frozen=True)
class TextSettings:
    """How the text encoder is built and trained."""

    seed: int = 0
    vocabulary: int = 1200
    width: int = 128
    n_layers: int = 3
    n_steps: int = 2500
    batch: int = 128
    learning_rate: float = 2e-3


def draw_captions(rng: np.random.Generator, n: int, held_out: bool = False) -> tuple[list[str], Tensor]:
    """(captions, labels [n, 10]); a third of them carry words that mean nothing, here and there."""
    texts, labels = [], []
    for _ in range(n):
        mention = captions.draw_mention(synth.draw_song(rng), rng)
        words = captions.write_caption(mention, rng, held_out).split(" ")
        for _ in range(int(rng.integers(1, 5)) if rng.random() < 1 / 3 else 0):
            noise = "".join(rng.choice(list(_LETTERS), int(rng.integers(2, 9))))
            # At the ends only: a word between 'no' and 'drums' could mean something to a reader.
            words.insert(0 if rng.random() < 0.5 else len(words), noise)
        texts.append(" ".join(words))
        labels.append(mention.labels())
    return texts, torch.tensor(labels)


def train_tokenizer(s: TextSettings, folder: Path) -> T5Tokenizer:
    """A unigram tokenizer in `folder`, in which every number up to 200 is one token."""
    texts, _ = draw_captions(np.random.default_rng((s.seed, 1)), 20_000)
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = _SPLIT
    special = ["<pad>", "</s>", "<unk>"]
    printable = [chr(code) for code in range(33, 127)]
    trainer = trainers.UnigramTrainer(
        vocab_size=s.vocabulary, special_tokens=special, unk_token="<unk>", initial_alphabet=printable
    )
    tokenizer.train_from_iterator(texts, trainer)
    pieces = dict(json.loads(tokenizer.to_str())["model"]["vocab"])
    pieces |= {letter: min(pieces.get(letter, -14.0), -12.0) for letter in printable}
    # Scores add up along a path, so one token at -4 beats any two.
    pieces |= {f"▁{number}": -4.0 for number in range(201)}
    ordered = [(piece, 0.0) for piece in special] + [item for item in pieces.items() if item[0] not in special]
    t5_tokenizer = T5Tokenizer(vocab=ordered, extra_ids=0)
    t5_tokenizer.save_pretrained(folder)
    return T5Tokenizer.from_pretrained(folder)


class Reader(nn.Module):
    """The encoder with one linear head a label, read at every token; only the encoder is kept."""

    def __init__(self, s: TextSettings, n_tokens: int) -> None:
        super().__init__()
        self.encoder = T5EncoderModel(
            T5Config(
                vocab_size=n_tokens,
                d_model=s.width,
                d_kv=32,
                num_heads=s.width // 32,
                d_ff=2 * s.width,
                num_layers=s.n_layers,
                dropout_rate=0.0,
                relative_attention_num_buckets=16,
                relative_attention_max_distance=48,
            )
        )
        self.heads = nn.Linear(s.width, sum(captions.LABEL_SIZES))

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Logits [B, T, classes] of each label from token ids and mask [B, T]."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return list(self.heads(hidden).split(captions.LABEL_SIZES, dim=-1))


def reading_loss(logits: list[Tensor], labels: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy over labels [B, 10] and the tokens that mask [B, T] keeps."""
    total = torch.zeros(())
    for i, label_logits in enumerate(logits):
        target = labels[:, i : i + 1].expand_as(mask)
        total = total + cross_entropy(label_logits[mask.bool()], target[mask.bool()])
    return total / len(logits)


@torch.no_grad()
def accuracies(reader: Reader, tokenizer: T5Tokenizer, seed: int) -> list[float]:
    """Share of held-out captions whose label is read right at the last token, per label."""
    texts, labels = draw_captions(np.random.default_rng((seed, 2)), 1_000, held_out=True)
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    last = batch["attention_mask"].sum(1) - 1
    rows = torch.arange(len(texts))
    logits = reader(batch["input_ids"], batch["attention_mask"])
    return [float((logits[i][rows, last].argmax(-1) == labels[:, i]).float().mean()) for i in range(len(logits))]


def train(s: TextSettings, folder: Path) -> None:
    """Train tokenizer and encoder and saves both in `folder`, as transformers' from_pretrained reads them."""
    torch.manual_seed(s.seed)
    tokenizer = train_tokenizer(s, folder)
    reader = Reader(s, len(tokenizer))
    optimiser = torch.optim.AdamW(reader.parameters(), s.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, s.learning_rate, s.n_steps, pct_start=0.1)
    for step in range(s.n_steps):
        texts, labels = draw_captions(np.random.default_rng((s.seed, 3, step)), s.batch)
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        loss = reading_loss(reader(batch["input_ids"], batch["attention_mask"]), labels, batch["attention_mask"])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % 250 == 0:
            read = " ".join(f"{share:.3f}" for share in accuracies(reader, tokenizer, s.seed))
            print(f"step {step + 1} loss {loss.item():.3f} read right {read}", flush=True)
    reader.encoder.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path(".train"))
    args = parser.parse_args()
    train(TextSettings(), args.work / "text_encoder")


if __name__ == "__main__":
    main()
