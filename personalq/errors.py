"""The whole exception tree: what can go wrong, readable in one file. Every message says what to do next."""

from __future__ import annotations


class PersonalQError(Exception):
    """Anything this package raises on purpose."""


class SettingsError(PersonalQError):
    """A flag, environment variable or configuration value cannot be used."""


class CatalogError(PersonalQError):
    """A repository or catalogue file cannot be read at all; single broken files are reported, not raised."""


class BrokenFileError(CatalogError):
    """One file is malformed, oversized or unsafe; the scan reports it and goes on."""


class MissingFactsError(CatalogError):
    """A file is sound but does not say all that is needed. `fields` names what to ask for: "trigger", "base"."""

    def __init__(self, message: str, fields: tuple[str, ...]) -> None:
        super().__init__(message)
        self.fields = fields


class HubError(CatalogError):
    """The Hub does not have what was asked for, or failed to give it."""


class HubAccessError(HubError):
    """A repository is private or gated, and the Hub does not know the user or has not let them in."""


class HubUnavailableError(HubError):
    """The Hub cannot be reached, the program is offline, or the Hub wants no more requests: asking on is useless."""


class RequestError(PersonalQError):
    """A request or an answer is empty, too long or does not belong to a pending question."""


class BenchError(PersonalQError):
    """A benchmark's catalogue or queries cannot be used."""


class UnknownCheckpointError(PersonalQError):
    """No checkpoint has the id asked for."""


class RerankerError(PersonalQError):
    """A reranker could not score the candidates."""


class EndpointError(RerankerError):
    """A language model's endpoint refused, failed or took too long. The message names neither it nor the key.

    `again` tells whether another try may help, after `wait` seconds where the endpoint said so.
    """

    def __init__(self, message: str, again: bool = False, wait: float | None = None) -> None:
        super().__init__(message)
        self.again = again
        self.wait = wait


class InvalidReplyError(RerankerError):
    """A language model's reply is not what was asked for; nothing of it is used."""


class ModelError(PersonalQError):
    """A base model or checkpoint cannot be loaded."""


class IncompatibleCheckpointError(ModelError):
    """The checkpoint was made for another base model or architecture."""


class QuantizationError(PersonalQError):
    """A layer cannot be stored at the precision asked for; nothing falls back silently."""


class GenerationError(PersonalQError):
    """Denoising failed: out of memory, a bad size, or numbers that stopped being finite."""


class CancelledError(PersonalQError):
    """The user stopped the generation."""


class PictureError(PersonalQError):
    """A picture's file cannot be opened, or does not say how it was made."""


class LimitError(PersonalQError):
    """A visitor asks for more, or more often, than one visitor may."""


class DeployError(PersonalQError):
    """The Spacefile is wrong, the README differs from it, or the Hub refused the Space."""
