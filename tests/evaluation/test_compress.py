from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.cli import main
from headwater.core.errors import InputError, MismatchError
from headwater.core.hardware import Machine
from headwater.evaluation import compress as module
from headwater.evaluation.compress import _text_of, _with_stored, compress, decompress
from headwater.evaluation.opening import open_model
from headwater.evaluation.score import document_losses
from headwater.evaluation.texts import samples_of_files

MACHINE = Machine(device="cpu", threads=1)


@pytest.fixture(scope="module")
def model(finished, tmp_path_factory) -> Path:
    """The trained checkpoint with its tokenizer beside it."""
    folder = tmp_path_factory.mktemp("model")
    shutil.copytree(finished["checkpoint"] / "checkpoint", folder, dirs_exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(finished["tokenizer"] / "tokenizer" / name, folder / name)
    return folder


def there_and_back(folder: Path, model: Path, data: bytes) -> int:
    for name in ("file", "file.headwater", "back"):
        (folder / name).unlink(missing_ok=True)
    (folder / "file").write_bytes(data)
    done = compress(folder / "file", str(model), None, MACHINE)
    assert done.before == len(data)
    back = decompress(done.path, str(model), folder / "back", MACHINE)
    assert back.read_bytes() == data
    return done.after


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"The if statement.\n" * 9,
        bytes(range(256)),
        b"good \xff\xfe bad \x80\n",
        "한국어 🙂\r\n\x00".encode(),
    ],
    ids=["empty", "one byte", "text", "all bytes", "invalid", "scripts"],
)
def test_any_bytes_come_back(tmp_path, model, data):
    there_and_back(tmp_path, model, data)


@given(st.binary(max_size=80))
@settings(max_examples=60)
def test_what_is_no_text_is_put_back_to_its_place(data):
    text, stored = _text_of(data)
    assert _with_stored(text, stored) == data


@given(st.binary(max_size=40))
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_come_back(tmp_path, model, data):
    there_and_back(tmp_path, model, data)


def test_the_size_is_what_the_probabilities_say(tmp_path, model, finished, monkeypatch):
    """In several streams, longer than the context: within 1 % of the score of the same documents by the same windows."""
    monkeypatch.setattr(module, "STREAM_BYTES", 2_000)
    import pydoc_data.topics

    path = tmp_path / "topics.txt"
    path.write_text("".join(list(pydoc_data.topics.topics.values())[60:66])[:8_000], encoding="utf-8")
    done = compress(path, str(model), None, MACHINE)
    assert 8 * done.after == pytest.approx(done.claimed_bits, rel=0.05)  # the head of so small a file counts
    payload = done.after - module._HEAD.size - 4 * module._STREAM.size
    assert 8 * payload == pytest.approx(done.claimed_bits, rel=0.01)
    opened = open_model(str(model), MACHINE)
    first = np.array([opened.codec.separator_id])
    documents = [np.concatenate([first, ids]) for ids in opened.codec.encode(module._parts(path.read_text()))]
    assert len(documents) == 4
    score = document_losses(opened.model, documents, overlap=module.OVERLAP).sum() / np.log(2)
    assert 8 * payload == pytest.approx(score, rel=0.01)
    assert samples_of_files([path], opened.codec)["topics"].tokens > 1000
    assert decompress(done.path, str(model), tmp_path / "back", MACHINE).read_bytes() == path.read_bytes()


def test_a_damaged_file_or_another_model_is_named(tmp_path, model, finished):
    (tmp_path / "file").write_bytes(b"The if statement is used for conditional execution. " * 4)
    done = compress(tmp_path / "file", str(model), None, MACHINE)
    with pytest.raises(InputError, match=r"file\.headwater: exists already"):
        compress(tmp_path / "file", str(model), None, MACHINE)
    content = done.path.read_bytes()
    for name, damaged, message in (
        ("short", content[:-5], "is cut short or damaged"),
        ("window", content[:78] + b"\0\0\0\x20" + content[82:], "is cut short or damaged"),
        ("other", b"PK" + content, "is not a file that headwater compress wrote"),
    ):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(InputError, match=message):
            decompress(tmp_path / name, str(model), tmp_path / "back", MACHINE)
    (tmp_path / "flipped").write_bytes(content[:-6] + bytes([content[-6] ^ 255]) + content[-5:])
    with pytest.raises(MismatchError, match="does not come back as it was"):
        decompress(tmp_path / "flipped", str(model), tmp_path / "back", MACHINE)
    untrained = tmp_path / "untrained"
    shutil.copytree(finished["start"] / "checkpoint", untrained)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model / name, untrained / name)
    with pytest.raises(MismatchError, match="was made with another model"):
        decompress(done.path, str(untrained), tmp_path / "back", MACHINE)
    assert not (tmp_path / "back").exists()


def test_on_the_command_line(tmp_path, model, capsys):
    (tmp_path / "a.txt").write_text("The if statement.\n")
    main(["compress", str(tmp_path / "a.txt"), "--model", str(model), "-o", str(tmp_path / "b")])
    assert "bits per byte; the model's probabilities say" in capsys.readouterr().out
    main(["decompress", str(tmp_path / "b"), "--model", str(model), "-o", str(tmp_path / "c")])
    assert (tmp_path / "c").read_text() == "The if statement.\n"
