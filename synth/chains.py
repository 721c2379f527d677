"""Which batches follow each other, what of them is left to do, and a chain's state on disk.

    OUT/.parts/chain_*.safetensors   a generator after a batch; gone when the set is finished

A chain is one process's work. By inversion every batch is a chain of its own. A generator's state
is written after the images of its batch, so it is never ahead of them: what was lost meanwhile is
made again, bit for bit. Where images before the state are gone, the chain begins anew.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from synth.files import write_whole
from synth.groups import Group
from synth.refusal import SynthError
from synth.settings import SynthesisConfig
from synth.writer import DamagedError, Writer

__all__ = ["Chain", "chains_of", "read_state", "remove_states", "rest_of", "write_state"]


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Batches that are made in this order, from ``begun`` on: those before are done."""

    id: int
    batches: tuple[tuple[Group, ...], ...]
    begun: int = 0

    @property
    def ahead(self) -> tuple[tuple[Group, ...], ...]:
        """The batches that are to be made."""
        return self.batches[self.begun :]

    def rehearsals(self, config: SynthesisConfig) -> tuple[tuple[Group, ...], ...]:
        """The batches that warm a generator up before the first; no group has their ids.

        Nobody keeps their images.
        """
        if config.engine == "inversion" or self.begun or not self.batches:
            return ()
        count, targets = config.generator.warmup_batches, self.batches[0][0].targets
        ids = range(-1 - count * self.id, -1 - count * (self.id + 1), -1)
        return tuple((Group(id=number, targets=targets),) for number in ids)


def chains_of(
    config: SynthesisConfig, batches: tuple[tuple[Group, ...], ...], world: int = 1
) -> tuple[Chain, ...]:
    """All chains of a run by ``world`` processes; a generator's batches are dealt out in turn.

    Raises:
        SynthError: If there are more chains than batches, or fewer than processes.
    """
    if config.engine == "inversion":
        return tuple(Chain(id=index, batches=(batch,)) for index, batch in enumerate(batches))
    count = config.generator.chains
    if count > len(batches):
        raise SynthError(
            f"generator.chains must be at most {len(batches)}, the number of batches, got {count}"
        )
    if count < world:
        raise SynthError(
            f"generator.chains must be at least {world}, the number of processes, got {count}: "
            "a chain is one process's work"
        )
    return tuple(Chain(id=index, batches=batches[index::count]) for index in range(count))


def rest_of(chain: Chain, writer: Writer) -> Chain:
    """The chain without what is done: from its state, or its beginning, to the last gap."""
    gaps = [
        index
        for index, batch in enumerate(chain.batches)
        if not all(writer.is_finished(group) for group in batch)
    ]
    if not gaps:
        return Chain(id=chain.id, batches=())
    stored = _stored_batches(writer, chain.id)
    begun = stored if stored <= gaps[0] else 0
    return Chain(id=chain.id, batches=chain.batches[: gaps[-1] + 1], begun=begun)


def write_state(writer: Writer, chain: int, batches: int, tensors: Mapping[str, Tensor]) -> None:
    """Write the state of a chain after that many batches."""
    content = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_whole(_file(writer, chain), save(content, metadata={"batches": str(batches)}))


def read_state(writer: Writer, chain: int) -> dict[str, Tensor]:
    """The tensors of a chain's state, on the CPU.

    Raises:
        DamagedError: If the file can't be read.
    """
    file = _file(writer, chain)
    try:
        with safe_open(file, "pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DamagedError(file, error) from error


def remove_states(writer: Writer) -> None:
    """Remove the states of all chains: the set is finished."""
    for file in (writer.out / ".parts").glob("chain_*.safetensors"):
        with suppress(FileNotFoundError):  # another process of the run was faster
            file.unlink()


def _stored_batches(writer: Writer, chain: int) -> int:
    """How many batches the chain's state has seen; 0 if there is none."""
    file = _file(writer, chain)
    if not file.exists():
        return 0
    try:
        with safe_open(file, "pt") as stored:
            return int(stored.metadata()["batches"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(file, error) from error


def _file(writer: Writer, chain: int) -> Path:
    return writer.out / ".parts" / f"chain_{chain:06d}.safetensors"
