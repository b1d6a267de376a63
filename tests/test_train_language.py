"""A language model of one's own from text alone: it learns, and is read wherever a published one is."""

import io
import json
import re
import signal
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from dualcap_jax import interrupts, train, train_language, trainer
from dualcap_jax.data.text import load_tokenizer, train_tokenizer
from dualcap_jax.errors import Stopped, UserError
from dualcap_jax.models.language_models.gpt2 import GPT2Config
from dualcap_jax.models.variables import bind_language, init_language
from dualcap_jax.pretrained import gpt2
from dualcap_jax.pretrained.files import read_tensors
from dualcap_jax.pretrained.load import load_pretrained
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.language import loop
from dualcap_jax.training.language.config import NOTE
from dualcap_jax.training.language.step import token_sums
from dualcap_jax.training.loop import LossNotFinite

from .commands import TINY
from .test_command_errors import errors_of

SHAPE = "--width 32 --layers 2 --heads 4 --max-positions 16 --dropout 0 --init-deviation 0.1 --vocab-size 300".split()
STEPS = "--steps 120 --batch-size 32 --learning-rate 1e-2 --validate-every 60 --log-every 60 --held-out 0.1".split()


def sentences(number=300) -> str:
    """Of a tiny grammar, in which a word tells much of the next."""
    rng = np.random.default_rng(0)
    nouns, verbs = ["dog", "cat", "bird"], {"dog": "barks", "cat": "sleeps", "bird": "sings"}
    chosen = rng.choice(nouns, (number, 2))
    return "".join(f"a {first} {verbs[first]} and a {second} {verbs[second]}\n" for first, second in chosen)


class Trained(NamedTuple):
    """What the command wrote, from what, and what it printed."""

    out: Path
    text: str
    printed: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    directory = tmp_path_factory.mktemp("language")
    (directory / "text.txt").write_text(sentences())
    text, out, printed = str(directory / "text.txt"), directory / "out", io.StringIO()
    with redirect_stdout(printed):
        assert train_language.main(["--text", text, "--out", str(out), *SHAPE, *STEPS]) == 0
    return Trained(out, text, printed.getvalue())


def loaded(directory):
    """What a directory holds, as this package reads it: shape and parameters."""
    config = gpt2.as_published(GPT2Config(pretrained=str(directory)))
    tree, _ = gpt2.load(config, {"params": init_language(config, 0)}, read_tensors(directory), "some")
    return config, tree["params"]


def printed_perplexities(printed: str) -> list[float]:
    return [float(each) for each in re.findall(r"perplexity[^.\d]* ([\d.]+\d)", printed)]


def test_it_learns_what_frequencies_alone_do_not_tell(trained):
    unigram, first, last, best = printed_perplexities(trained.printed)
    assert best == min(first, last) < 0.5 * unigram
    note = json.loads((trained.out / NOTE).read_text())
    assert (note["text"], note["steps"]) == ([trained.text], 120)
    assert note["perplexity"] == pytest.approx(best, abs=0.01)
    assert f"--model.language.pretrained {trained.out}" in trained.printed


def test_transformers_computes_the_same(trained):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    network = transformers.GPT2LMHeadModel.from_pretrained(trained.out).eval()
    tokenizer = transformers.GPT2Tokenizer.from_pretrained(trained.out)
    ids = load_tokenizer(trained.out).encode("a cat barks", 16)
    assert ids == [tokenizer.bos_token_id, *tokenizer(" a cat barks")["input_ids"], tokenizer.eos_token_id]
    tokens = np.array([ids, ids[::-1]], np.int32)
    with torch.inference_mode():
        theirs = network(torch.from_numpy(tokens).long(), labels=torch.from_numpy(tokens).long())

    config, params = loaded(trained.out)
    batch = {"tokens": tokens, "mask": np.ones_like(tokens, bool)}

    @jax.jit
    def ours(params):
        mine = bind_language(config, "float32", params)
        nll, count = token_sums(config, "float32", params, batch)
        return mine.logits(mine.hidden(tokens)), nll / count

    logits, loss = jax.device_get(ours(params))
    assert np.abs(logits - theirs.logits.numpy()).max() < 1e-5 * np.abs(logits).max()
    assert loss == pytest.approx(float(theirs.loss), rel=1e-5)


def test_the_train_command_reads_it_with_its_tokenizer(trained, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(
        trainer, "_train", lambda config, *others: begun.append((config, *others)) or 0
    )  # costs a minute
    lengths = ["--data.max-length", "12", "--decoding.max-length", "12"]
    args = ["--workdir", str(tmp_path / "run"), *TINY, "--model.language.pretrained", str(trained.out), *lengths]
    assert train.main(args) == 0
    (config, *_, tokenizer, _, _, _) = begun[0]
    language = config.model.language
    assert (language.width, language.layers, language.heads, language.max_positions) == (32, 2, 4, 16)
    assert tokenizer.digest == load_tokenizer(trained.out).digest
    model, notes = load_pretrained(config.model, 0)
    assert f"tensors from {trained.out}" in notes[0]
    np.testing.assert_array_equal(
        model["params"]["language"]["token_embedding"], loaded(trained.out)[1]["token_embedding"]
    )


def test_it_can_be_trained_further(trained, tmp_path):
    args = ["--text", trained.text, "--out", str(tmp_path / "out"), "--init-from", str(trained.out), *STEPS]
    assert train_language.main([*args, "--steps", "0", "--epochs", "1", "--learning-rate", "0"]) == 0
    before, after = (json.loads((each / NOTE).read_text()) for each in (trained.out, tmp_path / "out"))
    assert after["perplexity"] == pytest.approx(before["perplexity"], rel=1e-4)
    assert (after["width"], after["max_positions"]) == (32, 16)
    assert after["steps"] == after["best_step"] == 9


def test_plain_text_is_learnt_as_captions_are(trained, tmp_path):
    """Once capitals and full stops are gone, it is the text whose perplexity is known."""
    (tmp_path / "text.txt").write_text(sentences().title().replace("\n", " .\n"))
    args = ["--text", str(tmp_path / "text.txt"), "--init-from", str(trained.out), *STEPS]
    args += ["--steps", "1", "--learning-rate", "0"]
    notes = []
    for out, flags in (("plain", ["--data.plain", "True"]), ("as it is", [])):
        assert train_language.main([*args, "--out", str(tmp_path / out), *flags]) == 0
        notes.append(json.loads((tmp_path / out / NOTE).read_text()))
    known = json.loads((trained.out / NOTE).read_text())["perplexity"]
    assert [note["plain"] for note in notes] == [True, False]
    assert notes[0]["perplexity"] == pytest.approx(known, rel=1e-4)
    assert notes[1]["perplexity"] > 2 * known


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--text: give a file"),
        (["--text", "a.txt"], "--out: give a directory"),
        (["--text", "nowhere.txt", "--out", "out"], "nowhere.txt: no such file or directory"),
        (["--text", "a.txt", "a.pdf", "--out", "out"], "a.pdf: a file of no kind known here; name it .txt"),
        (["--text", "latin1.txt", "--out", "out"], "latin1.txt: not UTF-8"),
        (["--text", "blank.txt", "--out", "out"], "blank.txt: holds no text"),
        (["--text", "one.txt", "--out", "out"], "give two or more"),
        (["--text", "a.txt", "--out", "full"], "--out full: exists and is not empty; give a new directory"),
        (["--text", "a.txt", "--out", "a.txt"], "--out a.txt: exists and is not empty"),
        (["--text", "a.txt", "--out", "ours"], "holds a language model that this command wrote; give a new directory"),
        (["--text", "a.txt", "--out", "ours"], "--init-from ours"),
        (["--text", "a.txt", "--out", "out", "--vocab-size", "256"], "vocab_size=256: must be at least 257"),
        (["--text", "a.txt", "--out", "out", "--heads", "3"], "heads=3: must divide width=256"),
        (["--text", "a.txt", "--out", "out", "--held-out", "1"], "held_out=1.0: must be more than 0 and less than 1"),
        (["--text", "a.txt", "--out", "out", "--batch-size", "0"], "batch_size=0: must be at least 1"),
        (["--text", "a.txt", "--out", "out", "--epoch", "3"], "there is no such option; did you mean --epochs?"),
        (["--text", "a.txt", "--out", "out", "--tokenizer", "./none"], "'./none' does not exist"),
        (["--text", "a.txt", "--out", "out", "--init-from", "./none"], "./none: no such file or directory"),
        (["--text", "empty.json", "--out", "out"], "entry 1: a caption is empty. Mend it, or pass over such faults"),
    ],
)
def test_mistakes_are_told_in_a_line(args, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = {"a.txt": "A dog.\nA cat.\n", "a.pdf": "A dog.", "blank.txt": "\n \n", "one.txt": "A dog.\n"}
    texts |= {"full/a.txt": "A dog.", f"ours/{NOTE}": "{}", "empty.json": '["A dog.", " "]'}
    for name, content in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "latin1.txt").write_bytes("Ein Mädchen\n".encode("latin1"))
    before = sorted(tmp_path.rglob("*"))
    code, printed = errors_of(train_language.main, args, capsys, monkeypatch)
    assert code == 2
    assert message in printed
    assert sorted(tmp_path.rglob("*")) == before


def test_another_vocabulary_than_that_of_the_weights_is_refused(trained, tmp_path):
    train_tokenizer(["Other words."], 260).save(tmp_path / "other")
    args = ["--text", trained.text, "--out", str(tmp_path / "out"), "--init-from", str(trained.out)]
    with pytest.raises(UserError, match="they must be of one vocabulary"):
        train_language.main([*args, "--tokenizer", str(tmp_path / "other")])


# -- the loop, on steps that cost nothing


def run_loop(scores, losses=(), steps=6, validate_every=2):
    """Train numbers: the weights are the number of the step. What was saved, and what was raised."""
    saved, scores = [], iter(scores)
    losses = dict(losses)

    def step(state, batch):
        state = {"params": state["params"] + 1}
        return state, np.float32(losses.get(state["params"], 1.0))

    config = TrainingConfig(steps=steps, validate_every=validate_every, warmup_steps=0)
    batches = iter(lambda: None, 0)
    arguments = {"params": 0}, step, lambda params: next(scores), batches, lambda *each: saved.append(each), config
    try:
        return loop.train(*arguments), saved, None
    except (Stopped, LossNotFinite) as error:
        return None, saved, error


def test_the_best_weights_are_what_is_saved():
    best, saved, _ = run_loop([5.0, 3.0, 4.0])
    assert saved == [(2, loop.Best(2, 5.0)), (4, loop.Best(4, 3.0))]
    assert best == loop.Best(4, 3.0)


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (1, "at step 1 of 6: nothing was saved"),
        (3, "at step 3 of 6: saved are the weights after step 2, of perplexity 5"),
    ],
)
def test_a_signal_ends_it_with_the_best_so_far(at, told, monkeypatch):
    asked = iter([None] * (at - 1) + [signal.SIGINT] * 9)
    monkeypatch.setattr(interrupts, "asked", lambda: next(asked))
    _, saved, error = run_loop([5.0, 3.0, 4.0])
    assert isinstance(error, Stopped)
    assert error.exit_code == 130
    assert told in str(error)
    assert len(saved) == at // 2


@pytest.mark.parametrize(("at", "told"), [(1, "nothing was saved"), (3, "saved are the weights after step 2")])
def test_a_loss_that_is_not_finite_ends_it(at, told):
    _, _, error = run_loop([5.0, 3.0, 4.0], {at: np.nan})
    assert isinstance(error, LossNotFinite)
    assert f"step {at}: loss nan" in str(error)
    assert told in str(error)
