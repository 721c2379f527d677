"""The images of a group as one parquet file, in the layout of Hugging Face's ``datasets``."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["read_shard", "shard_bytes"]


def shard_bytes(
    names: Sequence[str],
    images: Sequence[bytes],
    labels: Sequence[int],
    class_names: Sequence[str],
) -> bytes:
    """The content of a parquet file: a row for each image, with columns ``image`` and ``label``.

    ``image`` holds the encoded bytes and, as path, the name. The file is not compressed: the images
    already are.

    Source:
        https://huggingface.co/docs/datasets/image_dataset: an Image feature is a struct of bytes
        and path; the features stand in the schema's metadata.
    """
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list(class_names)},
    }
    image_type = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema(
        {"image": image_type, "label": pa.int64()},
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = [
        {"image": {"bytes": image, "path": name}, "label": label}
        for name, image, label in zip(names, images, labels, strict=True)
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="NONE")
    return sink.getvalue().to_pybytes()


def read_shard(path: Path) -> dict[str, bytes]:
    """The encoded images of a parquet file by their names, in the order of its rows."""
    table = pq.ParquetFile(path).read(["image"])
    return {image["path"]: image["bytes"] for image in table.column("image").to_pylist()}
