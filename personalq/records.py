"""The frozen records that cross packages, and nothing else: no reading, no scoring, no tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from PIL.Image import Image

Kind = Literal["lora", "dreambooth", "ti"]
Role = Literal["subject", "style", "utility", "unknown"]
SpanRole = Literal["trigger", "concept", "style"]
Precision: TypeAlias = str
"""The name of a way to hold the denoiser: "reference", or a recipe's such as "taq-w8a8"."""

Protected = Literal["trigger", "start", "end", "suffix", "noun", "random", "all"]
"""Token rows that a recipe keeps exact: the trigger's, the start or end token's, every row from the trigger on, the
class noun's, as many others drawn at random, or all."""


# --- what there is to choose from --------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """One personalised checkpoint. Everything but `id` may be missing; missing is neutral, never a mismatch."""

    id: str
    name: str = ""
    kind: Kind = "lora"
    base: str | None = None
    """The base model in its normal form ("SD 1.5", "tiny-sd"); None is unknown."""
    base_raw: str | None = None
    """The base model as the file says it."""
    architecture: str | None = None
    triggers: tuple[str, ...] = ()
    """Byte-exact insertable triggers; the canonical one first."""
    trigger_sources: tuple[str, ...] = ()
    """Where each trigger was read, in the same order."""
    class_noun: str | None = None
    category: str | None = None
    role: Role = "unknown"
    tags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    """Other names: file stem, output name."""
    description: str = ""
    """Plain text: HTML, markdown and promotion removed."""
    sample_prompts: tuple[str, ...] = ()
    version: str | None = None
    version_ordinal: float | None = None
    group_id: str | None = None
    """Lineage: all versions of one model share it."""
    created_at: str | None = None
    """ISO 8601 date of training or upload; never of import."""
    license: str | None = None
    files: tuple[str, ...] = ()
    """Absolute paths, the weights first; on the Hub `hub:owner/name@commit/path` until it is fetched."""
    preview: str | None = None
    weight: float = 1.0
    """The strength the author recommends."""
    weight_sha256: str | None = None
    tensors_sha256: str | None = None
    """Of what follows the header of a safetensors file: by this A1111 names LoRAs, whatever their metadata."""
    source_format: str = ""
    loadable: bool = True
    """False for formats that are listed but never loaded, such as pickles."""


# --- selecting ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """A highlighted piece of a prompt: code points `start` to `end`, end exclusive."""

    start: int
    end: int
    role: SpanRole
    id: str
    """The checkpoint the piece belongs to."""


@dataclass(frozen=True)
class Request:
    """What the user typed; `base` is the base model that is loaded, if any."""

    text: str
    base: str | None = None
    history: tuple[str, ...] = ()
    as_of: str | None = None
    """ISO date "now" for phrases such as "last spring"; None is today."""


@dataclass(frozen=True)
class Intent:
    """A request, understood."""

    text: str
    subject: str
    """The words that describe the subject wanted, without places, versions, bases and negations."""
    style: str | None = None
    """The words that describe a style asked for beside the subject."""
    class_noun: str | None = None
    version: str | None = None
    """"12", "1.5", "first" or "newest"."""
    time_range: tuple[str, str] | None = None
    """ISO dates, both inclusive."""
    base: str | None = None
    negatives: tuple[str, ...] = ()
    consumed: tuple[tuple[int, int], ...] = ()
    """Pieces of `text` that only chose the checkpoint (version, time, base, kind) and leave the prompt."""
    kind: Kind | None = None
    """The kind of file asked for."""
    opt_out: bool = False
    """True when the request asks for no checkpoint at all."""


@dataclass(frozen=True)
class Candidate:
    """One checkpoint with every score it was given, kept for the user to see."""

    checkpoint: Checkpoint
    lexical: float = 0.0
    """BM25 over words, as a share of what an ideal document would score: 0 to 1."""
    grams: float = 0.0
    """BM25 over character grams, likewise."""
    dense: float = 0.0
    """Cosine of the request with the checkpoint's title."""
    body: float = 0.0
    """Cosine of the request with the checkpoint's description."""
    fused: float = 0.0
    rerank: float = 0.0
    """The reranker's logit."""
    probability: float = 0.0
    """Calibrated share of the posterior over all candidates and "none"."""
    reason: str = ""


@dataclass(frozen=True)
class Option:
    """One answer to a question; several checkpoints may share it."""

    id: str
    label: str
    checkpoint_ids: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """The checkpoints a request means, and its prompt with their triggers."""

    checkpoints: tuple[Checkpoint, ...]
    prompt: str
    spans: tuple[Span, ...]
    confidence: float
    why: str
    candidates: tuple[Candidate, ...] = ()
    warnings: tuple[str, ...] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    """What the user should know of how it was decided, such as a reranker that did not answer."""


@dataclass(frozen=True)
class Question:
    """One brief clarifying question; the last option is "none of these"."""

    text: str
    options: tuple[Option, ...]
    candidates: tuple[Candidate, ...] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class NoMatch:
    """Nothing in the catalogue is what the request means; `nearest` come closest."""

    nearest: tuple[Candidate, ...]
    why: str
    candidates: tuple[Candidate, ...] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


Decision: TypeAlias = Selection | Question | NoMatch


# --- quantising --------------------------------------------------------------------------------


@dataclass(frozen=True)
class QType:
    """A number format: `bits` per code in the range `qmin`..`qmax`, kept in tensors of dtype `storage`."""

    name: str
    bits: int
    signed: bool
    qmin: int
    qmax: int
    storage: Literal["int8", "uint8"]


@dataclass(frozen=True)
class Rule:
    """What happens to the layers whose dotted name matches `pattern` (a regular expression)."""

    pattern: str
    weight: QType | None
    """None keeps the layer in full precision."""
    activation: QType | None = None
    """None multiplies in 16 bits with the weight unpacked."""
    group: int | None = None
    """Input group size of the weight scales; None is one scale per output channel."""
    segments: bool = False
    """SegLinear: a scale for each part of an input that was concatenated."""
    dual: bool = False
    """DualScale: a scale for each sign of an input that comes from SiLU or GELU."""
    reason: str = ""
    """Why, when the layer stays in full precision."""


@dataclass(frozen=True)
class Recipe:
    """How a model is quantised: the first rule whose pattern matches a layer decides."""

    name: str
    rules: tuple[Rule, ...]
    text_rows: QType | None = None
    """Format of the unprotected key and value rows of cross-attention; None keeps them in full precision."""
    probabilities: QType | None = None
    """Format of the unprotected attention probabilities; None keeps them in full precision."""
    protect: tuple[Protected, ...] = ()
    """The rows and columns that stay in full precision."""


# --- serving -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One picture to make. The same job and noise go to every precision of a comparison."""

    prompt: str
    negative: str = ""
    spans: tuple[Span, ...] = ()
    """The marked pieces of the prompt. Triggers and styles are protected, a class noun ("concept") is not."""
    checkpoints: tuple[tuple[Checkpoint, float], ...] = ()
    """What to load on the base, each with its weight."""
    seed: int = 0
    steps: int = 20
    guidance: float = 3.5
    width: int | None = None
    """Pixels; None is the base model's own size."""
    height: int | None = None
    count: int = 1
    protect: tuple[Protected, ...] | None = None
    """Which rows a precision that protects any keeps exact; None is its own choice."""


@dataclass(frozen=True)
class MemoryReading:
    """What was measured, in bytes. A value that was not measured is None, never an estimate."""

    device: str
    weights_bytes: int
    """Bytes of the denoiser's stored tensors, counted once per storage."""
    kv_bytes: int
    """Bytes of the cached cross-attention keys and values."""
    peak_allocated: int | None
    """Peak of the CUDA allocator during the run."""
    peak_reserved: int | None
    process_rss: int | None
    """Peak resident set of the process during the run."""
    seconds: float
    how_measured: str
    device_total: int | None = None
    """All memory of the GPU."""


@dataclass(frozen=True)
class Frame:
    """One step of one variant; the last frame of a variant has step == total, the picture and the memory."""

    variant: Precision
    step: int
    total: int
    image: Image | None = None
    memory: MemoryReading | None = None
    warning: str | None = None
    """With the last frame: what the user should know, such as a trigger that was cut off."""
    protected: str = ""
    """With the last frame: which text rows stayed exact, such as "trigger", "moved rows" or "start only"; else none."""
    index: int = 0
    """Which of the job's pictures this is a step of, from 0."""


@dataclass(frozen=True)
class Difference:
    """How far two pictures of one size are apart, in grey levels of 255, and how that was drawn."""

    psnr: float
    """In dB, over all channels; infinite for identical pictures."""
    mean: float
    """Of all pixels, each by the channel that differs most."""
    largest: int
    scale_max: int
    """The difference from which on the drawing has its last colour."""


@dataclass(frozen=True)
class Recalled:
    """How a picture was made, read back from its file."""

    job: Job
    """As far as this catalogue can make it: without the checkpoints that are missing."""
    precision: Precision | None
    """None when the file does not say, or says one that is not known here."""
    missing: tuple[str, ...] = ()
    """The checkpoints that this catalogue does not have, each with its name and hash as far as the file says them."""
    remarks: tuple[str, ...] = ()
    """What else cannot be repeated, such as another base model."""
