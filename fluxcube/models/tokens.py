"""Tokens of EcoPerceiver: inputs, static inputs and bands of images, each as a vector with its embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxcube.models.base import Batch, Sizes, split_images
from fluxcube.models.dropout import DropoutKey
from fluxcube.models.ecoperceiver_config import EcoPerceiverConfig
from fluxcube.models.layers import MASKED, Stack, Tokens, fourier_features
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
        scale = torch.full((sizes.inputs,), 1 / _STANDARD_DEVIATIONS if config.summary else 1.0)
        scale[list(sizes.cyclic)] = 1.0
        self.register_buffer("scale", scale, persistent=False)

    def tokens(self, batch: Batch[Tensor]) -> Tokens:
        """Return the tokens of a batch and their masks."""
        seen = torch.isfinite(batch.inputs)
        values = torch.where(torch.isfinite(batch.inputs), batch.inputs, _PLACEHOLDER)
        hourly, seen, offset = (self._summarised if self.config.summary else self._separate)(batch, values, seen)
        hourly, seen = hourly.flatten(0, 1), seen.flatten(0, 1)
        rows, images, images_seen, kinds = self._image_tokens(batch)
        more_seen = torch.cat([seen[rows], images_seen], 1)
        present = seen.any(-1)
        present = present.index_copy(0, rows, more_seen.any(-1))
        return Tokens(
            values=hourly,
            bias=_bias(seen, hourly.dtype),
            present=present[:, None].to(hourly.dtype),
            rows=rows,
            more=torch.cat([hourly.index_select(0, rows), images.to(hourly.dtype)], 1),
            more_bias=_bias(more_seen, hourly.dtype),
            offset=offset,
            kinds=kinds,
        )

    def _separate(self, batch: Batch[Tensor], values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return a token for every input and static input (B, T, V, H_i), which are not masked, and no offset."""
        tokens = self._input_tokens(self._encoded(values))
        static, static_seen = self._static_tokens(batch)
        length = values.shape[1]
        tokens = torch.cat([tokens, static[:, None].expand(-1, length, -1, -1)], 2)
        return tokens, torch.cat([seen, static_seen[:, None].expand(-1, length, -1)], 2), None

    def _summarised(self, batch: Batch[Tensor], values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a token for every hourly input and one for the others, which are not masked, and the offsets."""
        own = self.sizes.inputs - self.sizes.means
        values = (values * self.scale).clamp(-1, 1)
        encoded = self._encoded(values[..., :own])
        if self.config.frequencies:  # otherwise the values themselves are the encoding
            encoded = torch.cat([encoded, values[..., :own, None]], -1)
        tokens = self._input_tokens(encoded)
        # What is missing is 0 beside a mask that says so, whatever the placeholder.
        slow = torch.where(seen, values * _STANDARD_DEVIATIONS, 0.0)[..., own:]
        token, offset = self.summary(slow, seen[..., own:], batch.numbers, batch.classes)
        tokens = torch.cat([tokens, self.met_norm(token)[:, :, None]], 2)
        return tokens, functional.pad(seen[..., :own], (0, 1), value=True), offset

    def _input_tokens(self, features: Tensor) -> Tensor:
        """Return the tokens (B, T, V, H_i) of the input columns, from the features that encode their values."""
        embedding = self.variables[: features.shape[2]].expand(*features.shape[:2], -1, -1)
        return self.met_norm(torch.cat([features, embedding], -1))

    def _encoded(self, values: Tensor) -> Tensor:
        """Return Fourier features (..., 2 K), or the values themselves (..., 1)."""
        if not self.config.frequencies:
            return values.float()[..., None]
        return fourier_features(values, self.config.frequencies)

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
            NaN where a token was dropped.
        """
        if not self.drops_inputs:
            return batch
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
        seen = torch.isfinite(batch.numbers)
        features = self._encoded(torch.where(seen, batch.numbers, _PLACEHOLDER))
        embedding = self.variables[self.sizes.inputs :].expand(len(features), -1, -1)
        features = features * self.coarse
        tokens = [torch.cat([features, embedding], -1)]
        for i, table in enumerate(self.classes):
            tokens.append(table[batch.classes[:, i].clamp(min=0)][:, None])
        return self.met_norm(torch.cat(tokens, 1)), torch.cat([seen, batch.classes >= 0], 1)

    def _image_tokens(self, batch: Batch[Tensor]) -> tuple[Tensor, Tensor, Tensor, tuple[tuple[Tensor, int], ...]]:
        """Return the rows (C,) of the hours with an image, and their band tokens (C, b, H_i), of all kinds together.

        Then follow which of these are not masked, and `Tokens.kinds`.
        """
        parts = split_images(batch.images, batch.image_step, self.sizes)
        if not self.sizes.image_bands:
            return (*self._band_tokens(batch, *parts[0], None), ())
        encoders = [None, *self.image_encoders] if self.sizes.bands else list(self.image_encoders)
        found = [self._band_tokens(batch, *part, one) for part, one in zip(parts, encoders, strict=True)]
        # Images of several kinds often share an hour, whose tokens then stand beside each other.
        rows = torch.unique(torch.cat([own for own, _, _ in found]))
        tokens, seen = [], []
        for own, values, unmasked in found:
            at = torch.searchsorted(rows, own)
            tokens.append(values.new_zeros(len(rows), *values.shape[1:]).index_copy(0, at, values))
            seen.append(unmasked.new_zeros(len(rows), unmasked.shape[1]).index_copy(0, at, unmasked))
        kinds = tuple((own.sort()[0], values.shape[1]) for own, values, _ in found)
        return rows, torch.cat(tokens, 1), torch.cat(seen, 1), kinds

    def _band_tokens(
        self, batch: Batch[Tensor], images: Tensor, step: Tensor, encoder: ImageEncoder | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows (C,) of the hours with an image of one kind, its tokens (C, b, H_i), and which are seen."""
        bands = self.sizes.bands if encoder is None else len(encoder.bands)
        window, slot = torch.nonzero(step >= 0, as_tuple=True)
        if not bands:
            window, slot = window[:0], slot[:0]
        rows = window * batch.inputs.shape[1] + step[window, slot]
        token = self.config.coding + self.config.embedding
        if not len(rows):
            return rows, batch.inputs.new_zeros(0, bands, token), rows.new_zeros(0, bands) > 0
        images = images[window, slot]
        seen = torch.isfinite(images).all(-1)
        images = torch.where(seen[..., None], images, _PLACEHOLDER)
        if encoder is None:
            features = torch.einsum("cbp,bpf->cbf", images, self.band_weight) + self.band_bias
            tokens = self.image_norm(torch.cat([features, self.bands.expand(len(rows), -1, -1)], -1))
        else:
            tokens = encoder(images)
        return rows, tokens, seen


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
        features = torch.einsum("cbp,bpf->cbf", images, self.band_weight) + self.band_bias
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


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bias (R, 1, V) that is added to the scores, for a mask (R, V)."""
    return torch.where(seen, 0.0, MASKED).to(dtype)[:, None]
