import pathlib

from delf_jax.config import read_config


def test_train_is_given_the_config_with_its_overrides(run, tmp_path, monkeypatch):
    from delf_jax.training import train

    calls = []

    def fake(config, workdir):
        calls.append((config.seed, workdir))
        return train.Outcome(3, True, {})

    monkeypatch.setattr(train, "train", fake)
    config = pathlib.Path(__file__).parents[2] / "configs" / "common.py"
    arguments = [f"--config={config}", f"--workdir={tmp_path}", "--config.seed=5"]
    assert run("train", *arguments, model=False)[0] == 0
    assert calls == [(5, str(tmp_path))]
    assert read_config(config).seed != 5
