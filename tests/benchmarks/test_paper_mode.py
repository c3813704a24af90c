"""benchmarks/paper_mode.py: its images have the cosines that it states, and its figures are those of a run."""

import numpy as np
import pytest
import torch
from helpers.clip_like import CONTENT, TEXTS, clip_texts


def _texts(count, seed):
    """With some variance in every direction, as a Gaussian fit needs it."""
    texts = clip_texts(count, seed)[:, : CONTENT + 1]
    return torch.nn.functional.normalize(texts, dim=-1)


def test_simulated_images_have_the_cosines_of_clip():
    from paper_mode import OTHERS, RIGHT, SPREAD, images_of

    names, captions = _texts(40, 0), _texts(800, 1)
    images = images_of(names, captions, torch.Generator().manual_seed(2))
    assert images.norm(dim=-1).allclose(torch.ones(40)) and (captions @ captions.T).mean() == pytest.approx(
        TEXTS, abs=0.01
    )
    assert (images[:, :-1] * names).sum(-1).tolist() == pytest.approx([RIGHT] * 40, abs=1e-4)
    others = images[:, :-1] @ captions.T
    assert others.mean().item() == pytest.approx(OTHERS, abs=0.003)
    assert others.std(dim=-1).mean().item() == pytest.approx(SPREAD, abs=0.002)


def test_the_command_prints_figures_and_warnings(tmp_path, capsys):
    import paper_mode

    names, captions = tmp_path / "names.npy", tmp_path / "captions.npy"
    np.save(names, _texts(30, 0).numpy())
    np.save(captions, _texts(300, 1).numpy())
    files = [str(names), str(captions)]
    assert paper_mode.main([*files, "--rows", *map(str, range(20))]) == 0
    printed = capsys.readouterr().out
    report, problems = paper_mode.report_of(_texts(20, 0), _texts(300, 1), paper_mode.PAPER)
    assert "| names, prototypes | 20, 300 |" in printed and f"| {report.right:.2%} |" in printed
    assert len(problems) == 3 and all(f"- {problem.split(':')[0]}: " in printed for problem in problems)
    sharp = [f"{name}_temperature=0.01" for name in ("assignment", "teacher", "teacher_name", "name")]
    assert paper_mode.main([*files, "--draw", "500", "--set", *sharp, "--set", "pool_update=frozen"]) == 0
    printed = capsys.readouterr().out
    assert "| names, prototypes | 30, 500 |" in printed and "--set" not in printed
