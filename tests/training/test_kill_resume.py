"""A run that is killed at any moment and goes on ends, to the bit, where the uninterrupted one ends."""

import json
import random
import time
from pathlib import Path

import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler, prepare_data_loader, skip_first_batches
from helpers.processes import kill, run_command, start
from helpers.trainings import train_command
from safetensors.torch import load_file

from decodetr.cli import main
from decodetr.training.data.dataloading import set_epoch
from decodetr.training.results.checkpoints import MARK, mark, problem, to_resume

# Denoising is on in the tiny model; every step ends in a checkpoint.
OPTIONS = [
    "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2",
    "--dataloader_num_workers", "2", "--ema_decay", "0.9", "--save_steps", "1", "--save_total_limit", "2",
    "--disable_tqdm", "true", "--learning_rate", "1e-3", "--val-annotations", "none", "--logging_steps", "100",
]  # fmt: skip


def _options(scenes, output, steps, *more):
    command = train_command(scenes, output, *OPTIONS, "--max_steps", str(steps), *more)
    # The last of two equal words counts for argparse, so the batch size above is that of OPTIONS.
    file = command[command.index("--config") + 1]
    text = Path(file).read_text(encoding="utf-8")
    assert "num_denoising: 4" in text
    for none, some in (("dropout: 0.0", "dropout: 0.1"), ("semantic_dropout: 0\n", "semantic_dropout: 0.3\n")):
        assert none in text
        text = text.replace(none, some)
    Path(file).write_text(text, encoding="utf-8")
    return command


def _wait_for(path, process, seconds=60):
    """Wait for `path`, or for the end of the process. Says whether the process goes on."""
    end = time.time() + seconds
    while not path.exists() and process.is_alive():
        assert time.time() < end, f"{path} was not written"
        time.sleep(0.0002)
    return process.is_alive()


def _equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b


def _assert_same(one, other, steps):
    """Final weights and pool, and weights, averages, optimizer and schedule of the last checkpoint, bit for bit."""
    last = f"checkpoint-{steps}"
    for file in ("model.safetensors", f"{last}/model.safetensors", f"{last}/ema.safetensors"):
        assert (one / file).read_bytes() == (other / file).read_bytes(), file
    for file in ("optimizer.pt", "scheduler.pt"):
        states = [torch.load(folder / last / file, weights_only=True) for folder in (one, other)]
        assert _equal(*states), file
    assert "prototype_pool.prototypes" in load_file(one / "model.safetensors")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As the processes that are killed have: sums over several round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(scenes, tmp_path_factory):
    """A function: the folder of the uninterrupted run of some steps, which has a checkpoint of the last one alone."""
    folders = {}

    def run(steps):
        if steps not in folders:
            folders[steps] = output = tmp_path_factory.mktemp("whole") / "run"
            assert main(_options(scenes, output, steps, "--save_steps", str(steps))) == 0
            states = [load_file(folder / "model.safetensors") for folder in (output, output / f"checkpoint-{steps}")]
            weight = "detector.model.enc_bbox_head.layers.0.weight"
            assert not torch.equal(states[0][weight], states[1][weight])  # averaged, and the step's own
        return folders[steps]

    return run


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(scenes, whole, tmp_path, capsys, caplog):
    expected, output = whole(6), tmp_path / "run"
    command = _options(scenes, output, 6, "--resume_from_checkpoint", "auto")
    process = start(run_command, command)
    assert _wait_for(output / "checkpoint-5" / "optimizer.pt", process)
    kill(process)  # an epoch has 3 steps: the next attempt begins in the middle of the second one
    # Whatever moment that was: the next attempt finds a checkpoint that is half there.
    (output / "checkpoint-5").mkdir(exist_ok=True)
    (output / "checkpoint-5" / "trainer_state.json").unlink(missing_ok=True)
    assert main(command) == 0
    assert "checkpoint-5 is left out" in caplog.text
    _assert_same(expected, output, 6)


@pytest.mark.slow
def test_killed_at_many_moments(scenes, whole, tmp_path):
    steps, output, moments = 8, tmp_path / "run", random.Random(0)
    command = _options(scenes, output, steps, "--resume_from_checkpoint", "auto")
    kills, reached = 0, set()
    while True:
        process = start(run_command, command)
        step = max([int(f.name.split("-")[1]) for f in output.glob("checkpoint-*")], default=0)
        # In the start, in a step, or in the writing of the next checkpoint or of the final model.
        files = ("model.safetensors", "ema.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", MARK)
        file = output / "model.safetensors"
        if step < steps:
            file = output / f"checkpoint-{step + 1}" / moments.choice(files)
        if kills % 8 == 0:
            alive, pause = True, moments.uniform(0, 1)
        elif file.exists():
            alive, pause = False, 0
        else:
            alive, pause = _wait_for(file, process), moments.choice((0, 0.002, 0.05, 0.3))
        time.sleep(pause)
        if not alive or not process.is_alive():
            process.join()
            assert process.exitcode == 0
            break
        kill(process)
        kills += 1
        reached.add(step)
        assert kills < 60
    assert kills >= steps and len(reached) >= steps - 1
    _assert_same(whole(steps), output, steps)


@pytest.mark.parametrize("processes, skipped", [(1, 0), (1, 1), (2, 0), (2, 1)])
def test_every_sampler_and_the_data_set_know_the_epoch(processes, skipped):
    """Accelerate alone leaves out the data set in all cases but the first, and the sampler in the last."""

    class Numbers(torch.utils.data.Dataset):
        epoch = None

        def __len__(self):
            return 12

        def __getitem__(self, index):
            return index

        def set_epoch(self, epoch):
            self.epoch = epoch

    orders = {}
    for epoch in (0, 3):
        sampler = SeedableRandomSampler(Numbers(), data_seed=0)
        loader = torch.utils.data.DataLoader(Numbers(), sampler=sampler, batch_size=2)
        loader = prepare_data_loader(loader, num_processes=processes, process_index=0, put_on_device=False)
        loader = skip_first_batches(loader, skipped) if skipped else loader
        set_epoch(loader, epoch)
        loader.set_epoch(epoch)  # as the library's Trainer does next
        orders[epoch] = [batch.tolist() for batch in loader]
        assert loader.dataset.epoch == epoch
        fresh = SeedableRandomSampler(Numbers(), data_seed=0)
        fresh.set_epoch(epoch)
        order = list(fresh)
        expected = [order[i : i + 2] for i in range(0, 12, 2 * processes)]
        assert orders[epoch] == expected[skipped:]
    assert orders[0] != orders[3]


def _checkpoint(folder, step):
    folder = folder / f"checkpoint-{step}"
    (folder / "part").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "part" / "optimizer.pt").write_bytes(b"state")
    mark(folder)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return folder


def test_the_newest_complete_checkpoint_is_found(tmp_path, caplog):
    assert to_resume("auto", tmp_path) is None and to_resume(None, tmp_path) is None
    with pytest.raises(FileNotFoundError, match="no complete checkpoint-"):
        to_resume("last", tmp_path)
    folders = {step: _checkpoint(tmp_path, step) for step in (2, 9, 10, 11, 12, 13)}
    (tmp_path / "checkpoint-best").mkdir()
    assert to_resume("last", tmp_path) == to_resume(True, tmp_path) == str(folders[13])
    (folders[13] / "part" / "optimizer.pt").write_bytes(b"stat")
    (folders[12] / "model.safetensors").unlink()
    (folders[11] / "trainer_state.json").write_text('{"global_step": 1')
    (folders[10] / MARK).unlink()
    assert to_resume("last", tmp_path) == str(folders[9])
    for step, why in ((13, "4 bytes instead of 5"), (12, "model.safetensors is missing"), (11, "trainer_state.json")):
        assert f"checkpoint-{step} is left out" in caplog.text and why in caplog.text
    assert "save_only_model" in problem(folders[10]) and "checkpoint-2 " not in caplog.text
    with pytest.raises(ValueError, match=r"checkpoint-12: model.safetensors is missing; give another"):
        to_resume(str(folders[12]), tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        to_resume(str(tmp_path / "checkpoint-1"), tmp_path)
