"""Joint low rank: the recurrent map and what reads the outputs share a factor: an LSTM with projection."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from asr_compress.compression.base import Context, Params, Pass, Report
from asr_compress.compression.low_rank import REFUSES, RankParams, choose_rank
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.layers import LayerNorm, Linear, Recurrent
from asr_compress.models.lstm import LSTMDirection
from asr_compress.models.maps import Map, map_of
from asr_compress.models.select import Site, sites_of
from asr_compress.models.spectrum import Spectrum


class JointLowRankParams(RankParams):
    """Parameters of joint low rank."""

    include: tuple[str, ...] = Field(("*",), description="LSTM layers by name pattern, such as layers.2")
    exclude: tuple[str, ...] = Field((), description="layers to leave alone")


class JointLowRank(Pass):
    """Factorize the recurrent map together with the maps that read the outputs: `[W_hh; W_next] = [Z_h; Z_next] P`.

    P becomes the layer's projection, so the smaller model is an ordinary LSTM with projection. Where a layer norm reads
    the outputs, a linear layer brings the projected ones back to its width first, since a norm needs every unit.

    Source: Prabhavalkar et al. 2016, "On the compression of recurrent neural networks with an application to LVCSR
    acoustic modeling for embedded speech recognition", section 3.
    """

    name = "joint_low_rank"
    family = "low rank"
    Params: ClassVar[type[Params]] = JointLowRankParams
    refuses: ClassVar[dict[str, str]] = REFUSES

    def prepare(self, model: nn.Module, context: Context) -> Report:
        report = Report()
        if not isinstance(model, AcousticModel):
            report.unsupported["model"] = (
                f"{type(model).__name__} is no list of layers; who reads its LSTMs is not known"
            )
            return report.check(self.name, context.strict)
        layers = {f"layers.{index}": layer for index, layer in enumerate(model.layers) if isinstance(layer, Recurrent)}
        self.before = sum(parameter.numel() for parameter in model.parameters())
        for name, layer in layers.items():
            sites = [site for site in sites_of(model) if any(site.direction is part for part in layer.directions)]
            reason = _why_not(sites)
            if not self._is_chosen(name):
                report.skipped[name] = "not chosen by include and exclude"
            elif reason == _PROJECTED:
                report.skipped[name] = reason
            elif reason is not None:
                report.unsupported[name] = reason
            else:
                report.touched[name] = self._factorize(model, layer, sites)
        return report.check(self.name, context.strict)

    def _is_chosen(self, name: str) -> bool:
        params: JointLowRankParams = self.params
        included = any(fnmatchcase(name, pattern) for pattern in params.include)
        return included and not any(fnmatchcase(name, pattern) for pattern in params.exclude)

    @torch.no_grad()
    def _factorize(self, model: AcousticModel, layer: Recurrent, sites: list[Site]) -> dict[str, object]:
        bases = [self._basis(site) for site in sites]
        expand = torch.block_diag(*bases)  # (outputs of both directions, their ranks)
        norms = [reader.part for reader in sites[0].readers if isinstance(reader.part, LayerNorm)]
        if norms:
            position = next(index for index, part in enumerate(model.layers) if part is layer)
            linear = Linear(expand.shape[1], expand.shape[0]).to(expand)
            linear.weight.copy_(expand)
            linear.bias.zero_()
            model.layers.insert(position + 1, linear)
        else:
            for reader in sites[0].readers:
                assert isinstance(reader.part, Map)
                _read(reader.part, reader.part.weight @ expand)
        for site, basis in zip(sites, bases, strict=True):
            _project(site.direction, basis)
        return {"ranks": [basis.shape[1] for basis in bases]}

    def _basis(self, site: Site) -> Tensor:
        """Orthonormal `(hidden, rank)`: the directions of the outputs that matter most to what reads them."""
        maps = [map_of(site.direction, "weight_hh").matrix]
        gain = torch.ones(site.direction.hidden)
        for reader in site.readers:
            if isinstance(reader.part, LayerNorm):
                gain = gain * reader.part.weight.detach().cpu()[reader.columns[0]]
            else:
                maps.append(reader.part.matrix[:, reader.columns[0]] * gain.to(reader.part.weight.device))
        spectrum = Spectrum.of(torch.cat(maps))  # at least 4H rows for H columns, so its basis is of the columns
        # The projection saves weights where rank * (4H + readers + H) is below (4H + readers) * H.
        rank = choose_rank(spectrum.values.cpu().numpy(), spectrum.matrix.shape, self.params)
        return spectrum.basis[:, :rank].to(site.direction.weight_hh.dtype).contiguous()

    def finalize(self, model: nn.Module) -> Report:
        after = sum(parameter.numel() for parameter in model.parameters())
        return Report(figures={"parameters_before": self.before, "parameters": after})


_PROJECTED = "it has a projection already"


def _why_not(sites: list[Site]) -> str | None:
    """Why a layer cannot get a projection; None if it can."""
    for site in sites:
        if site.direction.weight_hr is not None:
            return _PROJECTED
        if site.fixed is not None:
            return site.fixed
        if any(len(reader.columns) > 1 for reader in site.readers):
            return "stacked frames read its outputs more than once"
    return None


def _project(direction: LSTMDirection, basis: Tensor) -> None:
    """An LSTM whose outputs are those of before in the coordinates of `basis (hidden, rank)`."""
    recurrent = map_of(direction, "weight_hh")
    recurrent.replace_trained(nn.Parameter(recurrent.weight.detach() @ basis))
    direction.weight_hr = nn.Parameter(basis.T.contiguous())
    direction.outputs = basis.shape[1]


def _read(item: Map, weight: Tensor) -> None:
    item.replace_trained(nn.Parameter(weight.contiguous()))
    if isinstance(item.owner, LSTMDirection):
        item.owner.inputs = weight.shape[1]
