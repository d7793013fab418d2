"""From documents to shards of extractions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from odin_slm.config.parameters.base import Parameters, Precision


class ExtractionParams(Parameters):
    """From documents to shards of extractions."""

    engine: Literal["local", "ray"] = "local"
    """Who reads: this process, or Ray on the cores, machines or GPUs of a cluster."""
    workers: int = Field(default=0, ge=0)
    """Workers of Ray, each with the model in memory; 0: one per GPU, or per core, of the machines that are there."""
    schema_name: str = Field(default="", alias="schema")
    """Types to look for: all of them, or what one corpus annotates; empty: what the model asks by default."""
    constrained: bool = True
    """Whether a grammar holds every output to its text."""
    text_field: str = Field(default="text", min_length=1)
    """Field of JSON Lines, column of CSV and Parquet, that holds the text."""
    id_field: str = Field(default="id", min_length=1)
    """Field or column that holds the id; a record without one is named by file and number."""
    keep_text: bool = True
    """Whether the shards hold the texts; their hashes stand there always."""
    shard_size: int = Field(default=256, ge=1)
    """Documents of a shard: what a killed job loses at most, and what is in memory at once."""
    batch_size: int = Field(default=32, ge=1)
    """Windows decoded together."""
    precision: Precision = "fp32"
    """Arithmetic of the layers' products on a CPU; auto takes bf16 where the processor is faster in it."""
    max_new_tokens: int = Field(default=256, ge=8)
    """Budget of an output in tokens."""
    window_tokens: int = Field(default=320, ge=32)
    """Tokens of a window's text; a longer document is read in several."""
    overlap: int = Field(default=1, ge=0, le=10)
    """Sentences that neighbouring windows share."""
