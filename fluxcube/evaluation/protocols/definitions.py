"""Definitions of the benchmark protocols: what each one scores, and how it differs from fluxcube's own scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from fluxcube.errors import unknown
from fluxcube.evaluation.sums import QualityOptions
from fluxcube.samples.benchmark_splits import BENCHMARK_SPLITS, benchmark_sites, benchmark_split
from fluxcube.samples.partition import Split


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A benchmark protocol.

    Attributes
    ----------
    name : str
        Benchmark and setting, ``"fluxtrapolation/TA40"``; also the name of its split.
    resolution : {"hourly", "daily"}
        Time step of the data that are scored.
    targets : mapping of str to tuple of str
        Names of its fluxes, and the names that data may have for each, in order of preference.
    limit : QualityOptions
        Limit of quality of the values that the benchmark scores; None accepts every value.
    own_limit : QualityOptions
        Limit of quality of fluxcube's own scores, which are reported beside those of the benchmark.
    complete : bool
        Whether only time steps at which all targets are observed are scored.
    aggregation : str
        How scores of several sites are combined.
    differences : tuple of str
        How its scores differ from fluxcube's, and from the benchmark's own text.
    source : str
        Paper and code.
    """

    name: str
    resolution: str
    targets: Mapping[str, tuple[str, ...]]
    limit: QualityOptions
    own_limit: QualityOptions
    complete: bool = False
    aggregation: str
    differences: tuple[str, ...] = field(default=())
    source: str

    @property
    def benchmark(self) -> str:
        """Name of the benchmark."""
        return self.name.partition("/")[0]

    @property
    def setting(self) -> str:
        """Name of the setting within the benchmark."""
        return self.name.partition("/")[2]

    @property
    def in_time(self) -> bool:
        """Whether the split is in time, so that test sites are training sites as well."""
        return self.setting == "time-split"

    def sites(self, part: str = "test") -> Sequence[str]:
        """Return the listed sites of a part of the split (`fluxcube.samples.benchmark_splits.benchmark_sites`)."""
        return benchmark_sites(self.name, part)

    def split(self, cube) -> Split:
        """Return the split of a cube (`fluxcube.samples.benchmark_splits.benchmark_split`)."""
        return benchmark_split(cube, self.name)


_FLUXTRAPOLATION = (
    "scores are those of each environment (a site; in the split in time a site and year), then their median and 90th "
    "percentile",
    "r2_score is the squared correlation (corr2 here), and bias is observation minus prediction (the opposite sign "
    "here)",
    "every value of the test rows is scored, gap-filled ones too: the mask qc_mask is used for training only; "
    "fluxcube's own scores beside them are of measured values only",
    "relative_mae and relative_bias divide by the signed mean observation; where it is only a rounding error, as of "
    "anomalies, they are NaN here",
    "daily means are of all hours of a day; a day of fewer than 12 hours is left out",
    "the split TA40 has 40 test sites in the benchmark's code and 25 in its README: the 40 of the code are used",
    "days and years follow the time stamps of the benchmark's tables; of a cube, local standard time",
    "ET is scored only where the data contain a variable ET, since the unit of the benchmark's ET is not documented",
)
_CARBONFLUXBENCH = (
    "scores are those of each site, then their quartiles; R2 is 1 - SSE / SST (nse here), and of constant "
    "observations 0 (undefined here)",
    "nMAE is the mean absolute error divided by the absolute mean of the site's observations, which is large where the "
    "mean of NEE is near zero; RAE is the mean absolute error divided by that of the site's mean",
    "the benchmark's models see windows of 30 days without a missing input, and score the last day of each: days "
    "before the 30th of a record are not scored there, and are scored here where the model predicts them",
    "the benchmark's fluxes are the USTAR50 variants (GPP_NT_VUT_USTAR50); a cube has the variants of its own archives",
    "the carbon balance term of the benchmark's loss was off in all its committed results (until July 2026)",
)
_CARBONSENSE = (
    "the score of a class is that of all hours of its test sites together, of each seed, averaged over the seeds; "
    "the score of the mean prediction of all seeds is reported beside it",
    "the paper scores each model at the hours that it predicts; here all models and seeds are scored at the hours that "
    "all of them predict",
    "the published lists of sites belong to Table 2 of the final paper; Table 1 of the preprint has another split, "
    "whose lists are not published, so that it is not comparable",
    "values with a flag of 0 or 1 are scored, measured or filled with high confidence",
)
_HOURLY = {"GPP": ("GPP", "GPP_NT"), "NEE": ("NEE",), "ET": ("ET",)}
_DAILY = {name: (name, f"{name}_VUT_USTAR50") for name in ("GPP_NT", "RECO_NT", "NEE")}
_SOURCES = {
    "fluxtrapolation": "FLUXtrapolation, arXiv:2605.19812; github.com/anyafries/fluxnet_bench, commit 20ce373",
    "carbonfluxbench": "CarbonFluxBench (first CarbonBench), arXiv:2603.09868; github.com/alexxxroz/CarbonFluxBench, "
    "commit 312d776",
    "carbonsense": "CarbonSense and EcoPerceiver, arXiv:2406.04940; github.com/mjfortier/CarbonSense, commit e932a64",
}


def _protocol(name: str) -> Protocol:
    benchmark = name.partition("/")[0]
    source = _SOURCES[benchmark]
    if benchmark == "fluxtrapolation":
        return Protocol(
            name=name,
            resolution="hourly",
            targets=_HOURLY,
            limit={"max_qc": None},
            own_limit={"max_qc": 0},
            aggregation="median and 90th percentile over environments",
            differences=_FLUXTRAPOLATION,
            source=source,
        )
    if benchmark == "carbonfluxbench":
        return Protocol(
            name=name,
            resolution="daily",
            targets=_DAILY,
            limit={"min_quality": 1.0},
            own_limit={"min_quality": 1.0},
            complete=True,
            aggregation="quartiles over sites",
            differences=_CARBONFLUXBENCH,
            source=source,
        )
    return Protocol(
        name=name,
        resolution="hourly",
        targets={"NEE": ("NEE", "NEE_VUT_REF")},
        limit={"max_qc": 1},
        own_limit={"max_qc": 1},
        aggregation="pooled by IGBP class, mean over seeds",
        differences=_CARBONSENSE,
        source=source,
    )


#: Protocols by name.
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({name: _protocol(name) for name in BENCHMARK_SPLITS})
#: Former names of benchmarks.
_FORMER = {"carbonbench": "carbonfluxbench", "fluxnet_bench": "fluxtrapolation"}


def find_protocol(name: str) -> Protocol:
    """Return the protocol of a name.

    Parameters
    ----------
    name : str
        One of `PROTOCOLS`, in any case; the benchmark may have its former name (CarbonBench).

    Raises
    ------
    UnknownNameError
        If there is no such protocol.

    Examples
    --------
    >>> find_protocol("CarbonBench/IGBP").name, len(find_protocol("fluxtrapolation/TA40").sites())
    ('carbonfluxbench/igbp', 40)
    """
    benchmark, slash, setting = name.lower().partition("/")
    wanted = f"{_FORMER.get(benchmark, benchmark)}{slash}{setting}"
    found = {known.lower(): protocol for known, protocol in PROTOCOLS.items()}
    if wanted not in found:
        raise unknown("benchmark protocol", name, PROTOCOLS)
    return found[wanted]
