from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headwater.core.errors import StoreError
from headwater.model import checkpoint


def write(folder: Path, model, step: int = 3) -> None:
    tensors = {"optimizer/norm.weight/exp_avg": torch.randn(48), "optimizer/norm.weight/step": torch.tensor(3.0)}
    checkpoint.save(folder, model, step, {"initialized": "random"}, tensors, {"seconds": 1.5})


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_is_saved_is_loaded(make_model, tmp_path):
    model = make_model(tie_embeddings=False, qk_norm=True)
    write(tmp_path / "c", model)
    loaded, info = checkpoint.load_model(tmp_path / "c")
    assert (info.step, info.notes, info.resumable) == (3, {"initialized": "random"}, True)
    assert info.config == model.config
    row = torch.randint(0, 300, (1, 20))
    assert torch.equal(loaded(row), model(row))
    tensors, state = checkpoint.load_training(tmp_path / "c")
    assert state == {"seconds": 1.5}
    assert tensors["optimizer/norm.weight/step"] == 3


def test_weights_alone_cannot_be_resumed(make_model, tmp_path):
    checkpoint.save(tmp_path / "c", make_model(), 0)
    assert not checkpoint.read_info(tmp_path / "c").resumable
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["model.json", "weights.safetensors"]


@pytest.mark.parametrize("name", ["weights.safetensors", "training.safetensors", "state.json"])
def test_a_changed_file_is_named(make_model, tmp_path, name):
    write(tmp_path / "c", make_model())
    damage(tmp_path / "c" / name)
    with pytest.raises(StoreError, match=f"{name}: was changed or damaged"):
        checkpoint.load_model(tmp_path / "c")


def test_a_missing_file_is_named(make_model, tmp_path):
    write(tmp_path / "c", make_model())
    (tmp_path / "c" / "weights.safetensors").unlink()
    with pytest.raises(StoreError, match=r"weights.safetensors: is missing"):
        checkpoint.load_model(tmp_path / "c")


def test_a_damaged_description_is_named(make_model, tmp_path):
    write(tmp_path / "c", make_model())
    facts = json.loads((tmp_path / "c" / "model.json").read_text())
    facts["model"]["num_heads"] = 7
    (tmp_path / "c" / "model.json").write_text(json.dumps(facts))
    with pytest.raises(StoreError, match=r"model.json: is damaged"):
        checkpoint.read_info(tmp_path / "c")
    (tmp_path / "c" / "model.json").write_text("{")
    with pytest.raises(StoreError, match=r"model.json: cannot be read"):
        checkpoint.read_info(tmp_path / "c")


def test_weights_of_another_shape_are_named(make_model, tmp_path):
    write(tmp_path / "c", make_model())
    facts = json.loads((tmp_path / "c" / "model.json").read_text())
    facts["model"]["num_layers"] = 4
    (tmp_path / "c" / "model.json").write_text(json.dumps(facts))
    with pytest.raises(StoreError, match=r"tensor blocks.3.* is missing"):
        checkpoint.load_model(tmp_path / "c")


def test_the_newest_intact_checkpoint_is_found(make_model, tmp_path):
    model = make_model()
    for step in (999_999, 1_000_000, 20):  # in order of numbers, not of names
        write(checkpoint.step_folder(tmp_path, step), model, step)
    told: list[str] = []
    assert checkpoint.newest(tmp_path, told.append) == tmp_path / "step-1000000"
    assert not told
    damage(tmp_path / "step-1000000" / "training.safetensors")
    assert checkpoint.newest(tmp_path, told.append) == tmp_path / "step-999999"
    assert len(told) == 1
    assert "training.safetensors: was changed or damaged" in told[0]
    assert checkpoint.newest(tmp_path / "nothing", told.append) is None


def test_what_a_kill_during_a_save_leaves_is_cleared(make_model, tmp_path):
    write(checkpoint.step_folder(tmp_path, 10), make_model(), 10)
    write(tmp_path / ".step-000005.old", make_model(), 5)  # killed just before the new one took its place
    (tmp_path / ".step-000010.old").mkdir()
    (tmp_path / ".step-000020.1234.writing").mkdir()
    (tmp_path / ".state.json.5678.writing").write_text("{")
    assert checkpoint.newest(tmp_path, print) == tmp_path / "step-000010"
    checkpoint.remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000005", "step-000010"]
    assert checkpoint.read_info(tmp_path / "step-000005").step == 5


def test_a_checkpoint_is_replaced_whole(make_model, tmp_path):
    write(tmp_path / "c", make_model(seed=1), step=1)
    model = make_model(seed=2)
    write(tmp_path / "c", model, step=2)
    assert checkpoint.load_model(tmp_path / "c")[1].step == 2
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


FILL = """
import resource, signal, sys
from pathlib import Path
from headwater.core.errors import StoreError
from headwater.model import checkpoint
model, _ = checkpoint.load_model(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # the system now refuses to let files grow
try:
    checkpoint.save(Path(sys.argv[1]), model, step=9)
except StoreError as error:
    print(error)
"""


def test_when_the_disk_refuses_the_old_checkpoint_stays(make_model, tmp_path):
    write(tmp_path / "c", make_model(), step=5)
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path / "c")], capture_output=True, text=True, check=True, timeout=120
    )
    assert "cannot be written (File too large)" in done.stdout
    assert checkpoint.load_model(tmp_path / "c")[1].step == 5
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
