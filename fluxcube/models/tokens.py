"""Tokens of EcoPerceiver: inputs, static inputs and bands of images, each as a vector with its embedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxcube.models.base import Batch, Sizes, split_images
from fluxcube.models.dropout import DropoutKey
from fluxcube.models.ecoperceiver_config import EcoPerceiverConfig
from fluxcube.models.layers import (
    MASKED,
    ImageTokens,
    Stack,
    Tokens,
    few_kernels,
    octaves,
    product_dtype,
    sines_and_cosines,
    tokens_in_place,
)
from fluxcube.models.linear import Linear
from fluxcube.models.network import Network

#: Value in place of a missing one; masked, so that no output depends on it.
_PLACEHOLDER = 0.0
#: Standardised inputs are limited to this many standard deviations; Fourier features encode them as -1 to 1.
_STANDARD_DEVIATIONS = 5.0


class TokenNetwork(Network):
    """A network that encodes a batch as tokens; `EcoPerceiver` adds the attention to them."""

    config: EcoPerceiverConfig
    droppable: Tensor
    coarse: Tensor
    scale: Tensor
    octaves: Tensor

    def _add_token_parameters(self, config: EcoPerceiverConfig, sizes: Sizes) -> None:
        token = config.coding + config.embedding
        own_tokens = sizes.inputs - sizes.means if config.summary else sizes.inputs + sizes.numbers
        self.variables = nn.Parameter(torch.empty(own_tokens, config.embedding))
        self.met_norm = nn.LayerNorm(token)
        if config.summary:
            self.summary = Summary(sizes, config.summary, token, config.latent)
            self.last_norm = nn.LayerNorm(config.latent)
        classes = () if config.summary else sizes.classes
        self.classes = nn.ParameterList(torch.empty(count, token) for count in classes)
        if sizes.bands:
            self.bands = nn.Parameter(torch.empty(sizes.bands, config.embedding))
            self.band_weight = nn.Parameter(torch.empty(sizes.bands, sizes.pixels, config.coding))
            self.band_bias = nn.Parameter(torch.zeros(sizes.bands, config.coding))
            self.image_norm = nn.LayerNorm(token)
        self.image_encoders: Stack[ImageEncoder] = Stack(
            ImageEncoder(*kind, config.coding, config.embedding)
            for kind in zip(sizes.image_bands, sizes.image_pixels, strict=True)
        )

    def _register_token_buffers(self, config: EcoPerceiverConfig, sizes: Sizes) -> None:
        """Register the constants of the tokens, which no checkpoint contains."""
        droppable = torch.ones(sizes.inputs, dtype=torch.bool)
        droppable[list(sizes.protected)] = False
        self.register_buffer("droppable", droppable, persistent=False)
        coarse = (torch.arange(config.frequencies) < config.static_frequencies).float()
        coarse = coarse.repeat(2) if config.frequencies else torch.ones(1)
        self.register_buffer("coarse", coarse, persistent=False)
        self.register_buffer("octaves", octaves(config.frequencies), persistent=False)
        scale = torch.full((sizes.inputs,), 1 / _STANDARD_DEVIATIONS if config.summary else 1.0)
        scale[list(sizes.cyclic)] = 1.0
        self.register_buffer("scale", scale, persistent=False)

    def tokens(self, batch: Batch[Tensor]) -> Tokens:
        """Return the tokens of a batch and their masks; no shape of theirs depends on a value of the batch."""
        seen = finite(batch.inputs)
        values = torch.nan_to_num(batch.inputs, *[_PLACEHOLDER] * 3)
        hourly, seen, offset = (self._summarised if self.config.summary else self._separate)(batch, values, seen)
        dtype = product_dtype(hourly)
        hourly, seen = hourly.to(dtype).flatten(0, 1), seen.flatten(0, 1)
        images = self._image_tokens(batch)
        if not images:
            present = seen.any(-1, keepdim=True).to(batch.inputs.dtype)
            return Tokens(hourly, _bias(seen, dtype), present, offset=offset, own=hourly.shape[1])
        if few_kernels(self, hourly):
            return self._in_every_hour(batch, hourly, seen, images, offset)
        return self._in_hours_of_images(batch, hourly, seen, images, offset)

    def _in_every_hour(
        self, batch: Batch[Tensor], hourly: Tensor, seen: Tensor, images: tuple[ImageTokens, ...], offset: Tensor | None
    ) -> Tokens:
        """Return tokens of which each hour has those of the bands, too, masked where there is no image."""
        count, length = batch.inputs.shape[:2]
        hours = torch.arange(length, device=hourly.device).expand(count, -1)
        bands, bands_seen = images_at(images, hours)
        seen = torch.cat([seen, bands_seen], 1)
        return Tokens(
            values=torch.cat([hourly, bands], 1),
            bias=_bias(seen, hourly.dtype),
            present=seen.any(-1, keepdim=True).to(batch.inputs.dtype),
            offset=offset,
            images=images,
            own=hourly.shape[1],
        )

    def _in_hours_of_images(
        self, batch: Batch[Tensor], hourly: Tensor, seen: Tensor, images: tuple[ImageTokens, ...], offset: Tensor | None
    ) -> Tokens:
        """Return tokens of which those of the bands stand apart, for each slot of the batch."""
        hours, once = _hours_of_slots(images)
        bands, bands_seen = images_at(images, hours)
        first = torch.arange(len(hours), device=hours.device)[:, None] * batch.inputs.shape[1]
        rows = (hours + first).flatten()
        more_seen = torch.cat([seen.index_select(0, rows), bands_seen], 1)
        present = seen.any(-1).index_copy(0, rows, more_seen.any(-1))
        return Tokens(
            values=hourly,
            bias=_bias(seen, hourly.dtype),
            present=present[:, None].to(batch.inputs.dtype),
            rows=rows,
            more=torch.cat([hourly.index_select(0, rows), bands], 1),
            more_bias=_bias(more_seen, hourly.dtype),
            once=once.flatten()[:, None, None].to(hourly.dtype),
            offset=offset,
            images=images,
            own=hourly.shape[1],
        )

    def _separate(self, batch: Batch[Tensor], values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return a token for every input and static input (B, T, V, H_i), which are not masked, and no offset."""
        tokens = self._input_tokens(values)
        if not self.sizes.numbers and not self.sizes.classes:
            return tokens, seen, None
        static, static_seen = self._static_tokens(batch)
        length = values.shape[1]
        tokens = torch.cat([tokens, static[:, None].expand(-1, length, -1, -1)], 2)
        return tokens, torch.cat([seen, static_seen[:, None].expand(-1, length, -1)], 2), None

    def _summarised(self, batch: Batch[Tensor], values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a token for every hourly input and one for the others, which are not masked, and the offsets."""
        own = self.sizes.inputs - self.sizes.means
        values = (values * self.scale).clamp(-1, 1)
        tokens = self._input_tokens(values[..., :own])
        # What is missing is 0 beside a mask that says so, whatever the placeholder.
        slow = torch.where(seen, values * _STANDARD_DEVIATIONS, 0.0)[..., own:]
        token, offset = self.summary(slow, seen[..., own:], batch.numbers, batch.classes)
        tokens = torch.cat([tokens, self.met_norm(token)[:, :, None]], 2)
        return tokens, functional.pad(seen[..., :own], (0, 1), value=True), offset

    def _input_tokens(self, values: Tensor) -> Tensor:
        """Return the tokens (B, T, V, H_i) of the input columns, from their values (B, T, V).

        With a summary, the plain value stands beside its Fourier features.
        """
        count = values.shape[2]
        embedding = self.variables if count == len(self.variables) else self.variables[:count]
        plain = bool(self.config.summary and self.config.frequencies)
        if self.config.frequencies and not torch.is_grad_enabled() and not few_kernels(self, values):
            return tokens_in_place(values, self.octaves, embedding, self.met_norm, plain=plain)
        parts = [*self._encoded(values), *([values[..., None]] if plain else [])]
        return self.met_norm(torch.cat([*parts, embedding.expand(*values.shape[:2], -1, -1)], -1))

    def _encoded(self, values: Tensor) -> tuple[Tensor, ...]:
        """Return Fourier features, twice (..., K), or the values themselves (..., 1)."""
        if not self.config.frequencies:
            return (values.float()[..., None],)
        return sines_and_cosines(values, self.octaves)

    @property
    def drops_inputs(self) -> bool:
        """Whether `drop` masks inputs."""
        return bool(self.config.dropout)

    def drop(self, batch: Batch[Tensor], key: DropoutKey, rows: Tensor) -> Batch[Tensor]:
        """Mask inputs and bands of images of training windows (observational dropout).

        The parameters are those of `Network.drop`.

        Returns
        -------
        Batch of Tensors
            NaN where a token was dropped; without a table of images, since each window drops its own ones.
        """
        if not self.drops_inputs:
            return batch
        batch = batch.without_table()
        per_token, share = self.config.dropout_unit == "token", self.config.dropout
        hours, columns = batch.inputs.shape[1:]
        gone = key.dropped(rows, (hours if per_token else 1, columns), share, part=0) & self.droppable
        inputs = batch.inputs.masked_fill(gone, torch.nan)
        if not batch.images.shape[1]:
            return batch._replace(inputs=inputs)
        parts = []
        for i, (images, _) in enumerate(split_images(batch.images, batch.image_step, self.sizes)):
            slots, bands = images.shape[1:3]
            gone = key.dropped(rows, (slots if per_token else 1, bands), share, part=1 + i)[..., None]
            parts.append(images.masked_fill(gone, torch.nan))
        if self.sizes.image_bands:  # flattened, and as wide as those of the widest kind, as `gather` packs them
            width = batch.images.shape[-1]
            flat = [part.flatten(2) for part in parts]
            flat = [functional.pad(part, (0, width - part.shape[-1]), value=torch.nan) for part in flat]
            parts = [torch.cat(flat, 1)[:, :, None]]
        return batch._replace(inputs=inputs, images=parts[0])

    def _static_tokens(self, batch: Batch[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the tokens (B, S + C, H_i) that are the same at every hour, and which are not masked."""
        seen = finite(batch.numbers)
        features = torch.cat(self._encoded(torch.nan_to_num(batch.numbers, *[_PLACEHOLDER] * 3)), -1)
        embedding = self.variables[self.sizes.inputs :].expand(len(features), -1, -1)
        features = features * self.coarse
        tokens = [torch.cat([features, embedding], -1)]
        for i, table in enumerate(self.classes):
            tokens.append(table[batch.classes[:, i].clamp(min=0)][:, None])
        return self.met_norm(torch.cat(tokens, 1)), torch.cat([seen, batch.classes >= 0], 1)

    def _image_tokens(self, batch: Batch[Tensor]) -> tuple[ImageTokens, ...]:
        """Return the band tokens of each kind of images, of which a table of distinct images is encoded once."""
        kinds = self.sizes.image_kinds
        if not kinds or not batch.image_step.shape[1]:
            return ()
        encoders: list[ImageEncoder | None] = [None] if self.sizes.bands else []
        encoders += list(self.image_encoders)
        parts = split_table(batch, self.sizes)
        table = batch.image_row is not None
        pairs = zip(parts, encoders, strict=True)
        return tuple(self._band_tokens(*part, encoder, table=table) for part, encoder in pairs)

    def _band_tokens(
        self, images: Tensor, step: Tensor, row: Tensor, encoder: ImageEncoder | None, *, table: bool
    ) -> ImageTokens:
        """Return the tokens of images (M, b, p) of one kind, whose slots have time steps and rows (B, K).

        Without a table, the slots have an image each, in their own order.
        """
        unmasked = finite(images).all(-1)
        images = torch.where(unmasked[..., None], images, _PLACEHOLDER)
        if encoder is None:
            features = _of_pixels(images, self.band_weight, self.band_bias)
            tokens = self.image_norm(torch.cat([features, self.bands.expand(len(images), -1, -1)], -1))
        else:
            tokens = encoder(images)
        seen = unmasked[row] if table else unmasked.view(*step.shape, -1)
        return ImageTokens(step, row, tokens.to(product_dtype(tokens)), seen)


def finite(x: Tensor) -> Tensor:
    """Return where values are finite, by two kernels instead of the five of `torch.isfinite`."""
    return x.abs() < torch.inf


def _of_pixels(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the features (C, b, F) of images (C, b, p), for weights (b, p, F) and biases (b, F) of each band."""
    return torch.baddbmm(bias[:, None], images.transpose(0, 1), weight).transpose(0, 1)


class ImageEncoder(nn.Module):
    """Tokens of one kind of images beside the chips: a linear map of the pixels of each band, and its embedding.

    Parameters
    ----------
    bands, pixels : int
        Number of bands, and of pixels of a band.
    coding, embedding : int
        Number of features of a value, and length of an embedding; a token has both.
    """

    def __init__(self, bands: int, pixels: int, coding: int, embedding: int):
        super().__init__()
        self.bands = nn.Parameter(torch.empty(bands, embedding))
        self.band_weight = nn.Parameter(torch.empty(bands, pixels, coding))
        self.band_bias = nn.Parameter(torch.zeros(bands, coding))
        self.norm = nn.LayerNorm(coding + embedding)

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens (C, b, H_i) of images (C, b, p)."""
        features = _of_pixels(images, self.band_weight, self.band_bias)
        return self.norm(torch.cat([features, self.bands.expand(len(images), -1, -1)], -1))


class Summary(nn.Module):
    """What changes slowly, in one token and an offset of the latent of each hour.

    Parameters
    ----------
    sizes : Sizes
        Numbers of inputs; the last `Sizes.means` columns, static numbers and classes are summarised.
    hidden : int
        Width of the two layers.
    token, width : int
        Lengths of a token and of a latent.
    """

    def __init__(self, sizes: Sizes, hidden: int, token: int, width: int):
        super().__init__()
        self.counts = sizes.classes
        inputs = 2 * (sizes.means + sizes.numbers) + sum(sizes.classes)
        self.layers = nn.Sequential(Linear(inputs, hidden), nn.GELU(), Linear(hidden, hidden), nn.GELU())
        self.token, self.offset = Linear(hidden, token), Linear(hidden, width)

    def forward(self, slow: Tensor, seen: Tensor, numbers: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the token (B, T, H_i) and the offset (B, T, H) of each hour.

        Parameters
        ----------
        slow, seen : (B, T, means) Tensor
            Standardised inputs, 0 where they are missing, and where they are not.
        numbers : (B, S) Tensor
            Static numbers; NaN is missing.
        classes : (B, C) int64 Tensor
            Static classes; -1 is unknown.
        """
        known = torch.isfinite(numbers)
        static = [torch.where(known, numbers, 0.0), known.to(slow.dtype)]
        for i, count in enumerate(self.counts):
            static.append((classes[:, i : i + 1] == torch.arange(count, device=classes.device)).to(slow.dtype))
        each_hour = torch.cat(static, -1)[:, None].expand(-1, slow.shape[1], -1)
        hidden = self.layers(torch.cat([slow, seen.to(slow.dtype), each_hour], -1))
        return self.token(hidden), self.offset(hidden)


def split_table(batch: Batch[Tensor], sizes: Sizes) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return the images (M, b, p) of each kind, and the time step and row (B, K) of each slot.

    Parameters
    ----------
    batch : Batch of Tensors
        Windows with or without a table of images.
    sizes : Sizes
        Bands and pixels of each kind.
    """
    if batch.image_row is None:
        parts = split_images(batch.images, batch.image_step, sizes)
        slots = parts[0][1].numel()
        row = torch.arange(slots, device=batch.images.device).view_as(parts[0][1])
        return [(images.flatten(0, 1), step, row) for images, step in parts]
    if not sizes.image_bands:
        return [(batch.images, batch.image_step, batch.image_row)]
    kinds = sizes.image_kinds
    steps, rows = batch.image_step.chunk(len(kinds), 1), batch.image_row.chunk(len(kinds), 1)
    tables = [batch.images[:, 0, : bands * pixels].unflatten(-1, (bands, pixels)) for bands, pixels in kinds]
    return list(zip(tables, steps, rows, strict=True))


def images_at(images: Sequence[ImageTokens], hours: Tensor, *, latest: bool = False) -> tuple[Tensor, Tensor]:
    """Return the band tokens (B S, b, H_i) of all kinds at some hours, and which are not masked (B S, b).

    Parameters
    ----------
    images : sequence of ImageTokens
        Images of B windows.
    hours : (B, S) int64 Tensor
        Time steps of the windows.
    latest : bool
        Whether to return the latest image at or before an hour, instead of the one at that hour.
    """
    tokens, seen = [], []
    for one in images:
        step, hour = one.step[:, None], hours[..., None]
        usable = step <= hour if latest else step == hour
        best, slot = torch.where(usable, step, -1).max(-1)
        tokens.append(one.tokens.index_select(0, one.row.gather(1, slot).flatten()))
        own = one.seen.gather(1, slot[..., None].expand(-1, -1, one.seen.shape[2]))
        seen.append((own & (best >= 0)[..., None]).flatten(0, 1))
    if len(images) == 1:
        return tokens[0], seen[0]
    return torch.cat(tokens, 1), torch.cat(seen, 1)


def _hours_of_slots(images: Sequence[ImageTokens]) -> tuple[Tensor, Tensor]:
    """Return the hours (B, S) of the slots of all kinds, and which slots are the first ones at their hour.

    A slot without an image repeats the hour of another one (hour 0 of a window without images), since the number of
    slots must not depend on the data.
    """
    step = torch.cat([one.step for one in images], 1)
    hours = torch.where(step >= 0, step, step.max(1, keepdim=True)[0]).clamp(min=0)
    earlier = (hours[:, :, None] == hours[:, None]).tril(-1)
    return hours, ~earlier.any(-1)


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bias (R, 1, V) that is added to the scores, for a mask (R, V)."""
    return torch.where(seen, 0.0, MASKED).to(dtype)[:, None]
