"""The number formats there are, and what one means. It knows nothing of tensors, packing or layers."""

from __future__ import annotations

from personalq.records import QType

INT8 = QType("int8", 8, signed=True, qmin=-127, qmax=127, storage="int8")
"""Symmetric; one scale per output channel (weights), token (activations), row (keys) or channel (values)."""

INT4_ACT = QType("int4-act", 4, signed=True, qmin=-7, qmax=7, storage="int8")
"""Symmetric activations in fifteen levels, kept in bytes: the arithmetic is real, its speed would be simulated."""

ASYM8 = QType("asym8", 8, signed=False, qmin=0, qmax=255, storage="int8")
"""Activations in 256 even steps between their extremes, with a zero point."""

ASYM4 = QType("asym4", 4, signed=False, qmin=0, qmax=15, storage="int8")
"""As `ASYM8`, sixteen levels, kept in bytes."""

INT4 = QType("int4", 4, signed=False, qmin=0, qmax=15, storage="uint8")
"""Asymmetric in groups, two codes a byte; a group unpacks to exact int8 values."""

INT4_ROWS = QType("int4-rows", 4, signed=True, qmin=-7, qmax=7, storage="uint8")
"""Symmetric keys and values in fifteen levels, two codes a byte; scales as for `INT8`."""

NF4 = QType("nf4", 4, signed=False, qmin=0, qmax=15, storage="uint8")
"""bitsandbytes' table of sixteen normal quantiles, absmax per 64 weights; linear layers only."""

LINEAR8 = QType("linear8", 8, signed=False, qmin=0, qmax=255, storage="uint8")
"""Attention probabilities in even steps of the largest of their row."""

LINEAR4 = QType("linear4", 4, signed=False, qmin=0, qmax=15, storage="uint8")
"""As `LINEAR8`, sixteen levels."""

LOG4 = QType("log4", 4, signed=False, qmin=0, qmax=15, storage="uint8")
"""Attention probabilities in half octaves below the largest of their row; the top code is zero."""

LOG8 = QType("log8", 8, signed=False, qmin=0, qmax=255, storage="uint8")
"""As `LOG4`, in eighths of an octave."""

OCTAVE4 = QType("octave4", 4, signed=False, qmin=0, qmax=15, storage="uint8")
"""As `LOG4`, in whole octaves. Eight bits would add nothing but values below 2^-14 of the largest."""

LOG_STEP = {LOG4.name: 0.5, LOG8.name: 0.125, OCTAVE4.name: 1.0}
"""Step of the logarithmic formats, in octaves."""
