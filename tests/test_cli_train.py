"""The commands that split, train and score: every option does something or is refused, before anything long."""

from __future__ import annotations

import inspect
import io
import json
import re
import shlex
import sys

import numpy as np
import pandas as pd
import pytest
from surface_cubes import with_surface

from fluxcube import catalog, cli, cli_split, cli_train, progress
from fluxcube.errors import ConfigError
from fluxcube.samples.splits import Split, load_folds
from fluxcube.samples.surface import DEFAULT_COLUMNS
from fluxcube.simulation.example import example_cube
from fluxcube.training.fit import fit
from fluxcube.training.run import Run
from fluxcube.training.settings import configure

pytestmark = pytest.mark.usefixtures("short_applicability")

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # tests run beside each other

TINY = "--epochs 1 " + " ".join(
    f"--set {setting}"
    for setting in (
        "config.latent=16",
        "config.heads=2",
        "config.blocks=1",
        "config.context=24",
        "training.windows_per_epoch=32",
        "training.val_windows=32",
    )
)


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=12, days=8)


@pytest.fixture
def call(cube, tmp_path, monkeypatch, capsys):
    """Run a command in this process, on the example cube; its status and what it printed."""
    monkeypatch.setattr(catalog, "open_carbonsense", lambda store, **selection: cube)
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["fluxcube", *shlex.split(line)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def done(call):
    """Run a command that succeeds; what it printed."""

    def run(line: str) -> str:
        status, out, err = call(line)
        assert status == 0, (status, err)
        return out

    return run


@pytest.fixture
def planned(done, monkeypatch):
    """What a command of training would train, and how, without training it."""
    from fluxcube.training import fit as module

    def run(line: str) -> tuple[dict, dict]:
        seen = {}

        def train_one(data, seed, folder, **options):
            seen.update(plan=data.plan, seed=seed, folder=str(folder), **options)
            return Run(folder, data.plan.split)

        def train_seeds(plan, seeds, seed, folder, **options):
            seen.update(plan=plan, seed=seed, seeds=seeds, folder=str(folder), **options)
            return Run(folder, plan.split)

        monkeypatch.setattr(module, "train_one", train_one)
        monkeypatch.setattr(module, "train_seeds", train_seeds)
        done(line)
        seen["watch"] = seen["watch"].log  # its callback is another object for each command
        return seen["plan"].request(seen["seed"]), {k: v for k, v in seen.items() if k not in ("plan", "progress")}

    return run


#: Of each option of `train`: what it is compared with, and it.
TRAIN = {
    "context": None,
    "store": ("", None),
    "run": ("", None),
    "config": None,  # tests/training/test_runfile.py
    "log": ("", "--log csv"),
    "dry_run": None,  # tests/training/test_plan_training.py
    "model": ("", "--model mean-cycle"),
    "target": ("", "--target GPP_NT --target NEE"),
    "predictors": ("", "--predictors TA,SW_IN"),
    "memory_days": ("", "--memory-days 1,3"),
    "static": ("", "--static ''"),
    "bounds": ("", "--bounds table"),
    "surface": None,  # of cubes with surface reflectance: the next test
    "lookahead": None,
    "chips": ("", "--no-chips"),
    "split": ("", "--split kfold:2/3"),
    "preset": ("", "--preset published"),
    "settings": ("", "--set training.betas=0.8,0.9 --set config.share=False"),
    "epochs": ("", "--epochs 7"),
    "seeds": ("", "--seeds 3"),
    "jobs": ("--seeds 3", "--seeds 3 --jobs 2"),
    "train_igbp": ("", "--train-igbp GRA,ENF"),
    "search": ("--model xgboost", "--model xgboost --search 3"),
    "bag": ("", "--bag 0.5"),
    "max_qc": ("", "--max-qc 0"),
    "min_quality": None,  # of daily cubes: tests/test_quality_options.py
    "seed": ("", "--seed 5"),
    "overwrite": ("", "--overwrite"),
    "init": None,  # a test of its own
    "drivers": None,  # of cubes with drivers: tests/cubes/test_drivers.py
    "device": ("", "--device cpu"),
    "deterministic": ("", "--deterministic"),
}


def test_columns_of_the_surface_reflectance_are_options(planned, cube, monkeypatch):
    reflectance = with_surface(cube)
    monkeypatch.setattr(catalog, "open_carbonsense", lambda store, **selection: reflectance)
    features = {
        options: planned(f"train c r --model xgboost {options}")[0]["features"]
        for options in ("", "--surface ''", "--surface NDVI,CCI_MEAN_8D --lookahead 3")
    }
    default, none, some = features.values()
    assert tuple(default["surface"]) == DEFAULT_COLUMNS and "surface" not in none
    assert (some["surface"], some["lookahead"]) == (["NDVI", "CCI_MEAN_8D"], 3)


def test_every_option_of_training_changes_what_is_done(planned):
    assert set(TRAIN) == set(inspect.signature(cli_train.train).parameters), "an option of `train` has no test"
    for name, (without, given) in ((n, pair) for n, pair in TRAIN.items() if pair and pair[1]):
        assert planned(f"train c r {given}") != planned(f"train c r {without}"), name
    one, two = planned("train c r --set config.share=False"), planned("train c r --set config.share=false")
    assert one == two and one[0]["config"]["share"] is False
    assert planned("train c r --static ''")[0]["features"]["static"] == []
    assert planned("train c r --set training.betas=0.8,0.9")[0]["training"]["betas"] == [0.8, 0.9]
    _, training = configure("tam-rl", None, ["training.pretrain_epochs=14"], epochs=22)  # more than the default's all
    assert (training.epochs, training.pretrain_epochs) == (22, 14)
    with pytest.raises(ConfigError, match="14 of 3"):
        configure("tam-rl", None, ["training.pretrain_epochs=14"], epochs=3)
    assert planned("train c r --set training.weigh=igbp,site")[0]["training"]["weigh"] == ["igbp", "site"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--jobs 2", "pass seeds"),
        ("--model xgboost --epochs 3", "n_estimators"),
        ("--model mean-cycle --epochs 3", "not trained in epochs"),
        ("--model xgboost --set training.lr=1", "config.<key>"),
        ("--model xgboost --search 3 --set config.max_depth=3", "leave this setting out, or the search"),
        ("--search 3", "search is not available for ecoperceiver"),
        ("--bag 0", "bag must be a fraction of the training towers"),
        ("--bag 1.5", "at most 1, found 1.5"),
        ("--model xgboost --init r", "xgboost cannot be"),
        ("--model sw-linear --preset small", "preset of sw-linear"),
        ("--model sw-linear --predictors TA", "needs SW_IN"),
        ("--model ecoperciever", "did you mean 'ecoperceiver'"),
        ("--init nowhere", "nowhere does not exist"),
        ("--set config.share=maybe", "share must be true or false, found 'maybe'"),
        ("--set training.batch_size=1.5", "batch_size must be a whole number, found 1.5"),
        ("--set training.betas=0.9", "betas must be a list"),
        ("--set training.betas=0.9,1.2", "betas must be two numbers in [0, 1)"),
        ("--set training.lr=NaN", "lr must be a number, found nan"),
        ("--set training.grad_clip=-1", "grad_clip must be 0 or more"),
        ("--set training.epoch=3", "did you mean 'epochs'"),
        ("--set lr=3", "training.<key>=<value>"),
        ("--set training.device=gpu", "expected 'auto', 'cpu', 'cuda'"),
        ("--device mps", "Apple's mps is not supported"),
        ("--model sw-linear --device cuda", "sw-linear is trained on the CPU, not on 'cuda'"),
        ("--model xgboost --set config.subsample=2", "subsample must be above 0 and at most 1"),
        ("--target GPP", "did you mean 'GPP_NT'"),
        ("--target NEE --target NEE", "targets: expected each name once"),
        ("--target LE --predictors LE,TA", "cannot be predictor and target"),
        ("--target FCH4", "FCH4: observed in no hour of the training sites"),
        ("--predictors TA,CO2", "CO2: no training site has a value of flag 1 or better"),
        ("--predictors TAA", "did you mean 'TA'"),
        ("--predictors ''", "at least one predictor"),
        ("--memory week", "--memory-days: expected whole days"),
        ("--memory 0", "whole days of 1 or more"),
        ("--static climate", "unknown static input"),
        ("--train-igbp GRA,EBF", "no training site of the split is EBF: its classes are CRO, DBF, ENF, GRA"),
        ("--split kfold:9", "numbered 1 to 5"),
        ("--split kfold:two", "expected the number of a fold"),
        ("--split nowhere.json", "neither a split file nor a kind of split"),
        ("--split sites:nowhere.txt", "nowhere.txt"),
        ("--split time", "years"),
        ("--split extrapolation:warm", "Known: space, temperature, time"),
        ("--set training.weight_by_randunc=true --no-chips", "random uncertainty"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_leaves_nothing(call, tmp_path, monkeypatch, options, message):
    from fluxcube.training import single

    def read(*_):
        raise AssertionError("towers are read before all is checked")

    monkeypatch.setattr(single, "load_towers", read)
    monkeypatch.setattr(single, "SiteRows", read)
    status, out, _ = call(f"train c r {options}")
    assert isinstance(status, str) and status.startswith("fluxcube: ") and message in status, status
    assert "\n" not in status and len(status) < 600 and not out
    assert not (tmp_path / "r").exists()


def test_a_run_says_how_it_went_and_is_trained_further(done, call, tmp_path):
    targets = "--target NEE --target GPP_NT --predictors DOY,TOD,TA,SW_IN --no-chips --split kfold:1/3"
    text = done(f"train c eco {TINY} {targets} --set config.distribution=gaussian")
    assert "validation NSE NEE" in text and "coverage of 80 % intervals: NEE" in text
    head, row = (tmp_path / "eco/log.csv").read_text("utf-8").split()
    assert head == "epoch,loss,val_nse_NEE,val_nse_GPP_NT,lr,windows,seconds" and row.startswith("1,")
    assert "--overwrite" in call(f"train c eco {TINY} {targets}")[0]
    done("train c more --init eco --split eco/split.json --epochs 1 --set config.dropout=0.2")
    was, now = (json.loads((tmp_path / name / "run.json").read_text("utf-8")) for name in ("eco", "more"))
    assert now["features"] == was["features"] and now["init"] == was["digest"]
    assert now["config"] == was["config"] | {"dropout": 0.2}
    assert Split.load(tmp_path / "more/split.json") == Split.load(tmp_path / "eco/split.json")


def test_the_log_of_a_job_that_nobody_watches_tells_how_it_goes(call, monkeypatch):
    monkeypatch.setattr(progress, "FIRST", 1e-3)
    monkeypatch.setattr(progress, "EVERY", 1e-3)
    status, _, told = call(f"train c eco {TINY} --epochs 2 --predictors TA,SW_IN --no-chips --static ''")
    number = r"-?\d+\.\d{3}"
    told = [line for line in told.splitlines() if "epoch" in line]
    first = re.compile(rf"train: \d+ % \(1 of \d+\), epoch 1 of 2, loss {number}, [\d,]+ windows/s, \d+ s left$")
    assert status == 0 and first.match(told[0]), told[0]
    assert re.search(rf"epoch 2 of 2, loss {number}, NSE {number}, [\d,]+ windows/s, 0 s left$", told[-1])


def test_logs_of_trees_name_the_targets(done, tmp_path):
    pytest.importorskip("xgboost")
    text = done("train c xgb --model xgboost --set config.n_estimators=3 --target NEE --target GPP_NT")
    assert "val_nse_GPP_NT" in text
    assert (tmp_path / "xgb/log.csv").read_text("utf-8").startswith("trees_NEE,val_rmse_NEE,val_nse_NEE,trees_GPP_NT")


def test_no_file_of_another_is_removed(done, call, tmp_path):
    """A folder that holds more than a run, hidden or not, is left alone, whatever is asked."""
    for at, name in enumerate((".git/config", "model.py", "seed-notes/a.txt", ".rows.state.bak")):
        path = tmp_path / f"mine-{at}" / name
        path.parent.mkdir(parents=True)
        path.write_text("x", "utf-8")
        for options in ("", "--seeds 2"):
            status, _, _ = call(f"train c mine-{at} --model sw-linear --overwrite {options}")
            assert "contains other files" in str(status) and path.exists()
    done("train c ours --model sw-linear --seeds 2")
    (tmp_path / "ours/seed-1/notes.txt").write_text("x", "utf-8")
    status, _, _ = call("train c ours --model sw-linear --seeds 2 --overwrite")
    assert "notes.txt" in str(status) and (tmp_path / "ours/seed-0/run.json").exists()


@pytest.fixture(scope="module")
def trained(cube, tmp_path_factory):
    """A folder of two runs and an ensemble on one split."""
    folder = tmp_path_factory.mktemp("trained")
    for name, model, seeds in (("line", "sw-linear", None), ("cycle", "mean-cycle", None), ("two", "sw-linear", 2)):
        run = fit(cube, model=model, out=folder / name, seeds=seeds, split="kfold:2/3", bands=())
    assert "seeds 0, 1; validation NSE NEE" in run.summary
    return folder


@pytest.fixture
def runs(call, trained, monkeypatch):
    """That folder, in which commands are run."""
    monkeypatch.chdir(trained)
    return trained


#: Of each option of `evaluate`: what it is compared with, and it.
EVALUATE = {
    "run": ("line", "cycle"),
    "mix": ("line", "line --mix cycle"),
    "digest": None,  # tests/training/test_bucket_runs.py
    "against": ("line", "line --against cycle"),
    "maps": None,  # tests/test_cli_models.py
    "by": ("line", "line --by site"),
    "part": ("line", "line --part val"),
    "clusters_km": ("line --against cycle --by all", "line --against cycle --by all --clusters-km 3000"),
    "draws": ("line --against cycle --by all", "line --against cycle --by all --draws 0"),
    "scales": ("line", "line --scales"),
    "max_qc": ("line", "line --max-qc all"),
    "min_quality": None,  # of daily cubes: tests/test_quality_options.py
    "allow_missing": None,  # test_inputs_that_a_cube_lacks_are_refused_unless_allowed
    "allow_other_product": None,  # accepts what is refused otherwise: tests/inference/test_product.py
    "seed": ("line --against cycle --by all", "line --against cycle --by all --seed 3"),
    "out": None,
    "form": ("line", "line --format md"),
    "store": None,
    "drivers": None,  # of cubes with drivers: tests/cubes/test_drivers.py
    "protocol": None,  # tests/evaluation/test_protocols.py
    "device": None,  # changes no score: test_a_device_that_does_not_exist_is_one_line
}


def test_every_option_of_scoring_changes_the_table(done, runs, tmp_path):
    assert set(EVALUATE) == set(inspect.signature(cli.evaluate).parameters), "an option of `evaluate` has no test"
    for name, pair in EVALUATE.items():
        if pair:
            one, two = (done(f"evaluate {line.split()[0]} c {line.partition(' ')[2]}") for line in pair)
            assert one != two, name
    first = done("evaluate line c --format md").splitlines()
    assert "| all |" in first[2] and "| CRO" in first[3], "all rows together come first"
    assert done("evaluate line c --by all --format md").splitlines()[2] == first[2]
    assert "Differences" not in "".join(first), "there is no other model"
    done(f"evaluate line c --against two --out {tmp_path}/table.csv")
    header, row, *_ = (tmp_path / "table.csv").read_text("utf-8").splitlines()
    assert header.startswith("target,units,group,model,n,n_sites,nse") and row.startswith("NEE,umol m-2 s-1,all,line")


def test_a_device_that_does_not_exist_is_one_line(call, done, runs):
    assert done("evaluate line c --device cpu") == done("evaluate line c")
    status, _, _ = call("evaluate line c --device gpu")
    assert isinstance(status, str) and status.startswith("fluxcube: device: expected 'auto', 'cpu', 'cuda'")


def test_groups_are_combined_with_each_other_and_with_scales(done, call, runs, cube, monkeypatch, tmp_path):
    combined = done("evaluate line c --by igbp,time_of_day --draws 0")
    assert "CRO, night" in combined and "CRO, midday" in combined
    assert "| heat |" in done("evaluate line c --by subset --draws 0 --format md")
    done(f"evaluate line c --by season --scales --draws 0 --out {tmp_path}/table.csv")
    table = pd.read_csv(tmp_path / "table.csv")
    assert {"hourly", "daily"} <= set(table.scale) and set(table.group) == {"winter", "spring", "summer", "autumn"}
    monkeypatch.setattr(catalog, "open_carbonsense", lambda store: cube.drop_sel(variable="VPD"))
    status, _, _ = call("evaluate line c --by subset")
    assert isinstance(status, str) and "none of ['VPD']" in status


def test_inputs_that_a_cube_lacks_are_refused_unless_allowed(call, cube, monkeypatch):
    assert call("train c two --model sw-linear --predictors TA,SW_IN --static latitude")[0] == 0
    monkeypatch.setattr(catalog, "open_carbonsense", lambda store: cube.drop_sel(variable="TA"))
    status, _, _ = call("evaluate two few --by all")
    assert isinstance(status, str) and "trained on TA, which the cube lacks" in status
    assert call("evaluate two few --by all --allow-missing")[0] == 0


def test_members_that_are_alike_are_one_model(done, runs):
    """Lines fitted with two seeds are one line: the ensemble's scores are the run's."""
    table = done("evaluate two c --against line --by all --draws 0 --format md").splitlines()
    assert table[0].startswith("| group | model | values | sites | NSE | RMSE (umol m-2 s-1) | bias")
    assert table[2].split("|")[3:9] == table[3].split("|")[3:9]


def test_a_table_fits_a_terminal_and_programs_get_all_of_it(done, call, runs):
    line = "evaluate line c --against cycle --draws 100"
    shown = done(line).splitlines()
    assert max(map(len, shown)) <= 100 and any("[low, high] is an interval: 95%" in text for text in shown)
    status, out, err = call(f"{line} --format csv")
    table = pd.read_csv(io.StringIO(out))
    assert status == 0 and {"nse_low", "nse_diff_high", "mae", "nse_site_p90"} <= set(table) and "Rows:" in err
    rows = json.loads(call(f"{line} --format json")[1])
    assert [row["nse"] for row in rows] == pytest.approx(table.nse.tolist(), nan_ok=True, abs=0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("line c --against line", "compared with itself"),
        ("line c --by sites", "did you mean 'site'"),
        ("line c --by igbp,sites", "did you mean 'site'"),
        ("line c --part tests", "--part: expected"),
        ("line c --out nowhere/table.csv", "does not exist"),
        ("line c --out line", "is a folder"),
        ("line/model.json c", "line/model.json is a file"),
        ("nowhere c", "nowhere does not exist"),
    ],
)
def test_what_cannot_be_scored_is_told_before_anything_is_predicted(call, runs, monkeypatch, line, message):
    from fluxcube.inference import towers

    monkeypatch.setattr(towers, "predict", lambda *a, **k: pytest.fail("predicted before all is checked"))
    status, _, _ = call(f"evaluate {line}")
    assert isinstance(status, str) and message in status and "\n" not in status


def test_towers_that_a_run_learnt_from_are_told_when_all_are_scored(call, runs):
    status, _, err = call("evaluate line c --part all --by all")
    split = Split.load(runs / "line/split.json")
    assert status == 0 and "trained on" in err and split.train[0] in err
    assert "trained on" not in call("evaluate line c --by all")[2]


def test_a_cube_without_the_test_sites_is_told(call, runs, cube, monkeypatch):
    split = Split.load(runs / "line/split.json")
    monkeypatch.setattr(catalog, "open_carbonsense", lambda store, **selection: cube.sel(site=list(split.train)))
    status, _, _ = call("evaluate line c")
    assert f"lacks {len(split.test)} of the {len(split.test)} test sites" in str(status) and "--part all" in str(status)
    assert call("evaluate line c --part all --by all")[0] == 0


SPLIT = {
    "kind": ("--kind kfold", "--kind blocks"),
    "k": ("--kind kfold", "--kind kfold --k 3"),
    "buffer_km": ("--kind kfold --k 3", "--kind kfold --k 3 --buffer-km 750"),
    "val_km": ("--kind kfold --k 3", "--kind kfold --k 3 --val-km 1000"),
    "setting": ("--kind extrapolation", "--kind extrapolation --setting temperature"),
    "sites": ("--kind sites --sites a.txt", "--kind sites --sites b.txt"),
    "seed": ("--kind per-igbp", "--kind per-igbp --seed 4"),
    "store": None,
    "out": None,
    "overwrite": None,
    "form": None,
}


def test_every_option_of_splitting_changes_the_split(done, call, cube, tmp_path):
    assert set(SPLIT) == set(inspect.signature(cli_split.split).parameters), "an option of `split` has no test"
    sites = list(map(str, cube.site.values))
    for name, of in (("a", sites[:2]), ("b", sites[3:6])):
        (tmp_path / f"{name}.txt").write_text("\n".join(of), "utf-8")
    for name, pair in ((n, p) for n, p in SPLIT.items() if p):
        made = []
        for options in pair:
            done(f"split c s.json --overwrite {options}")
            made.append([fold.to_dict() for fold in load_folds(tmp_path / "s.json")])
        assert made[0] != made[1], name
    assert np.sort(load_folds(tmp_path / "s.json")[0].test).size
    assert "--overwrite" in call("split c s.json")[0]
    _, out, _ = call("split c s.json --overwrite --kind kfold --k 3 --format csv")
    folds = load_folds(tmp_path / "s.json")
    rows = [f"s.json:{i},{f.kind},{len(f.train)},{len(f.val)},{len(f.test)}" for i, f in enumerate(folds, 1)]
    assert out.splitlines() == ["split,kind,train,val,test", *rows]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--kind time --k 3", "k is for kfold and blocks and warm-site, not for time"),
        ("--kind per-igbp --val-km 9", "not for per-igbp"),
        ("--kind kfold --setting time", "setting is for extrapolation"),
        ("--kind kfold --sites a.txt", "sites is for sites"),
        ("--kind time --buffer-km 5", "not for time"),
        ("--kind sites", "--sites FILE"),
        ("--kind kfolds", "did you mean 'kfold'"),
        ("--kind kfold --k 40", "k must be 2..12"),
        ("--kind kfold --buffer-km 2000", "all 12 towers are one cluster"),
    ],
)
def test_a_split_that_cannot_be_is_one_line(call, tmp_path, options, message):
    status, _, _ = call(f"split c s.json {options}")
    assert message in str(status) and "\n" not in str(status) and not (tmp_path / "s.json").exists()
    assert "does not exist" in call("split c nowhere/s.json")[0]
