"""Distil an ensemble into one small model, and compare both: `python recipes/distillation/recipe.py CUBE OUT`."""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import yaml

import fluxcube as fc
from fluxcube.evaluation.report import format_pair, format_table
from fluxcube.evaluation.skill import score_table
from fluxcube.evaluation.sums import site_sums
from fluxcube.experiments import Variant, member_predictions, predictions_of, trained
from fluxcube.samples.splits import load_folds

SETTINGS = yaml.safe_load((Path(__file__).parent / "meta.yaml").read_text("utf-8"))["parameters"]
CLUSTERS_KM = 50.0
TEACHER, MEMBER, STUDENT = "ensemble", "one member", "student"
#: Number of paired rounds, and of hours in each, in which the cost of predictions is measured.
ROUNDS, HOURS = 5, 2000


def variants_of(budget, *, surface=False):
    """Return the teacher and the student at a budget, with reflectance if the cube has it."""
    chosen = SETTINGS["budgets"][budget]
    base = Variant(**{"label": TEACHER} | SETTINGS["base"]).changed(chosen["both"])
    base = base.changed({"surface": SETTINGS["surface"]} if surface else {})
    student = base.changed({"label": STUDENT}).changed(SETTINGS["student"]).changed(chosen["student"])
    return base.changed(chosen["teacher"]), student


def costs(cube, site, runs, stride, hours=HOURS, rounds=ROUNDS):
    """Return the CPU seconds of predictions of each run at one tower, in rounds that alternate between the runs."""
    models, one = {label: fc.load_model(run) for label, run in runs.items()}, cube.sel(site=[site])
    start = int(np.searchsorted(one.time.values, one.time_start.values[0]))
    one = one.isel(time=slice(start, start + hours)).load()
    seconds = {label: [] for label in models}
    for _ in range(rounds + 1):
        for label, model in models.items():
            began = time.process_time()
            fc.predict(model, one, stride=stride, progress=quiet)
            seconds[label].append(time.process_time() - began)
    return {label: np.array(found[1:]) for label, found in seconds.items()}  # the first round reads the models


def quiet(done, total, text):
    """Ignore progress."""


def agreement(runs, forcing):
    """Return, for each flux, how the maps of the student differ from those of the teacher."""
    maps = {label: fc.upscale(fc.load_model(run), forcing, allow_missing=True).compute() for label, run in runs.items()}
    found = {}
    for name in SETTINGS["base"]["target"]:
        one, other = (maps[label][name].values.ravel() for label in (STUDENT, TEACHER))
        both = np.isfinite(one) & np.isfinite(other)
        one, other = one[both].astype(float), other[both].astype(float)
        found[name] = {
            "hours": int(both.sum()),
            "correlation": float(np.corrcoef(one, other)[0, 1]),
            "rmse_over_spread": float(np.sqrt(np.square(one - other).mean()) / other.std()),
            "bias_over_spread": float((one - other).mean() / other.std()),
        }
    return found


def report(table, pairs, cost, maps, out):
    """Write the scores, the differences from the ensemble, the ratio of costs and the agreement of maps."""
    ratio = float(np.median(cost[TEACHER] / cost[STUDENT]))
    text = ["# An ensemble and the model that learned it", format_table(table)]
    for label, pair in pairs.items():
        text += [f"## {label} and {TEACHER}: {pair['target'].iloc[0]}", format_pair(pair, label, TEACHER)]
    text.append(f"A prediction of the {TEACHER} takes {ratio:.2f} times the CPU time of one of the {STUDENT}.")
    text += [f"- maps of {name}: {json.dumps(row)}" for name, row in maps.items()]
    nse = table.pivot(index="target", columns="model", values="nse")
    below = (nse[TEACHER] - nse[STUDENT]).max()
    verdict = "within" if below <= SETTINGS["tolerance"] else "not within"
    text.append(
        f"The {STUDENT} is {verdict} {SETTINGS['tolerance']} of the {TEACHER} (largest difference {below:.4f})."
    )
    (out / "distillation.md").write_text("\n\n".join(text) + "\n", "utf-8")
    table.to_csv(out / "scores.csv", index=False)
    return {"cost_ratio": ratio, "largest_difference": float(below), "maps": maps}


def main(raw, out, *, split=None, budget="full", part="test", draws=1000, observed=None, forcing=None, igbp=None):
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    cube = fc.open_carbonsense(raw) if isinstance(raw, str | Path) else raw
    chosen = load_folds(split or SETTINGS["split"])[0]
    teacher, student = variants_of(budget, surface="surface" in cube)
    teacher_run = trained(cube, chosen, teacher, out)
    observed = SETTINGS["observed"] if observed is None else observed
    stride = min(SETTINGS["label_stride"], fc.load_model(teacher_run).model.emits)
    labelled = fc.distil(teacher_run, cube, split=chosen, observed=observed, stride=stride, out=out / "labels.nc")
    apart = out / f"student-{observed:g}"
    student_run = trained(labelled, chosen, student, apart)
    predictions = {
        TEACHER: predictions_of(cube, chosen, teacher, out, part=part, log=print),
        MEMBER: member_predictions(cube, chosen, teacher, out, part=part, log=print)[0],
        STUDENT: predictions_of(labelled, chosen, student, apart, part=part, log=print),
    }
    sums = site_sums(chosen.part(cube, part), predictions)
    about = {"clusters": CLUSTERS_KM, "draws": draws, "against": TEACHER}
    table = score_table(sums, **about)
    pairs = {label: table[table["target"] == sums.targets[0]] for label in (STUDENT, MEMBER)}
    for pair in pairs.values():
        pair.attrs = table.attrs
    runs = {TEACHER: teacher_run, STUDENT: student_run}
    cost = costs(cube, getattr(chosen, part)[0], runs, student.stride)
    if isinstance(forcing, str | Path):
        forcing = fc.open_forcing(forcing, igbp=igbp)
    found = report(table, pairs, cost, {} if forcing is None else agreement(runs, forcing), out)
    (out / "summary.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path, help="cube of towers")
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", type=Path, help="split file; by default that of the development towers")
    parser.add_argument("--budget", choices=list(SETTINGS["budgets"]), default="full")
    parser.add_argument("--part", choices=("val", "test"), default="test", help="towers to score")
    parser.add_argument("--observed", type=float, help="weight of a measured flux in the label of its hour")
    parser.add_argument("--forcing", type=Path, help="ERA5 file, or store of a forcing, for the agreement of maps")
    parser.add_argument("--igbp", help="class of all cells of the forcing")
    options = vars(parser.parse_args())
    print(format_table(main(options.pop("raw"), options.pop("out"), **options)))
