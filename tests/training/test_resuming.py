import dataclasses

import charlm
from charlm.checkpoint.step import open_checkpoint
from charlm.config import TrainingConfig, from_dict
from charlm.corpus.prepared import open_corpus
from charlm.training.resuming import with_limit


def test_an_older_run_without_a_limit_and_without_validation_text_gets_one(text_file, tmp_path, trained_run):
    run = charlm.train(text_file, out=tmp_path / "run", split="100/0/0", size="tiny", steps=1, threads=1).run
    config = from_dict(TrainingConfig, open_checkpoint(run).config["training"], "")
    assert with_limit(config, open_corpus(run / "corpus")) == config
    without_limit = dataclasses.replace(config, steps=None)
    assert with_limit(without_limit, open_corpus(run / "corpus")).epochs == 30
    assert with_limit(without_limit, open_corpus(trained_run / "corpus")) == without_limit
