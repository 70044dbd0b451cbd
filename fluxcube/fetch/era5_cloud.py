"""Copy ERA5 of a region from a cloud into a store, without an account of the Climate Data Store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from fluxcube.errors import FetchError
from fluxcube.fetch.era5_request import ERA5, Period, Place, Product
from fluxcube.fetch.items import Item, Plan, request_key
from fluxcube.fetch.ledger import Ledger
from fluxcube.fetch.licences import write_licence
from fluxcube.fetch.run import Progress, make_plan
from fluxcube.sources.era5.clouds import address_of, public_address
from fluxcube.sources.era5.copy import copy_era5
from fluxcube.stores.building import remove
from fluxcube.stores.ledger import done_regions
from fluxcube.stores.reading import store_attrs

#: Cells of the globe in one chunk of ARCO-ERA5, and bytes of a value of it, compressed: about half of float32.
_GLOBE, _PER_VALUE = 721 * 1440, 2.0
#: Bytes per second of a usual connection, for the time in a plan.
_SPEED = 20e6


def plan_copy(
    folder: Path, product: Product, store: str, place: Place, periods: Sequence[Period], parameters: Sequence[str]
) -> Plan:
    """Return the plan of a copy: one store for each run of years, in chunks of the source."""
    items = [_item(product, store, place, period, parameters) for period in periods]
    plan = make_plan(f"{product.title} ({public_address(store)})", folder, items, licence=product.licence)
    globe = address_of(store) == address_of("arco-era5")
    fields = sum(_hours(period) for period in periods) * len(parameters)
    read = _PER_VALUE * fields * (_GLOBE if globe else place.cells(product))
    note = (
        "each chunk of ARCO-ERA5 contains the globe, so that the bytes that are read do not depend on the region"
        if globe
        else "the bytes that are read depend on the chunks of the store"
    )
    return Plan(
        plan.source,
        plan.items,
        plan.have,
        notes=(f"about {read / 1e9:.3g} GB are read from the store; {note}.",),
        seconds=read / _SPEED if plan.missing else 0.0,
        licence=plan.licence,
    )


def copy(
    folder: Path,
    product: Product,
    store: str,
    place: Place,
    periods: Sequence[Period],
    parameters: Sequence[str],
    progress: Progress | None,
) -> list[Path]:
    """Copy the region and periods of a plan; a stopped copy continues with the same call.

    Raises
    ------
    SourceError, StoreError
        As `fluxcube.copy_era5`.
    FetchError
        If values are missing.
    """
    plan = plan_copy(folder, product, store, place, periods, parameters)
    ledger = Ledger(folder)
    with ledger.locked():
        for period, item in zip(periods, plan.items, strict=True):
            path = folder / item.name
            if item not in plan.missing:
                continue
            # After a kill between the copy and the ledger the store is complete already.
            if not path.is_file() or store_attrs(path.parent).get("complete") is not True:
                copy_era5(
                    store,
                    path.parent,
                    bbox=place.box,
                    time=(f"{period.first}T00", f"{period.last}T22"),
                    parameters=parameters,
                    progress=progress,
                )
            _check_copy(path.parent, product)
            ledger.record(item, path, source=plan.source, url=public_address(address_of(store)))
        write_licence(folder, plan, ledger)
    return [(folder / item.name).parent for item in plan.items]


def _check_copy(store: Path, product: Product) -> None:
    """Refuse a copy of ERA5 with missing values, which it has nowhere: Zarr takes a chunk that is not sent for empty.

    ERA5-Land has no values over the sea.
    """
    if product.name != ERA5.name:
        return
    missing = {key.partition(":")[0]: number for key, number in done_regions(store).items() if number}
    if missing:
        remove(store)
        raise FetchError(
            f"{store.name}: values of {', '.join(sorted(missing))} are missing: the store did not send all chunks, or "
            "does not have these hours yet. The copy was removed: run the same command again."
        )


def _hours(period: Period) -> int:
    return 24 * ((period.last - period.first).days + 1)


def _item(product: Product, store: str, place: Place, period: Period, parameters: Sequence[str]) -> Item:
    key = request_key(
        {
            "store": public_address(address_of(store)),
            "box": place.box,
            "period": [str(period.first), str(period.last)],
            "parameters": list(parameters),
        }
    )
    size = round(2.5 * _hours(period) * len(parameters) * place.cells(product))
    digest = hashlib.sha256(key.encode()).hexdigest()[:6]
    name = f"{product.name}_{period.first}_{period.last}_{digest}.zarr/zarr.json"
    return Item(name, key, size, about={"parameters": list(parameters), "store": public_address(address_of(store))})
