"""What NVIDIA's own server answers to the probes, and where this one differs on purpose.

Recorded from tritonserver 2.51.0 (24.10) with a Python model of the same inputs and outputs, which
answers zeros to whatever the server lets through.
"""

from __future__ import annotations

VERSION = "2.51.0"


def _flat(by_status: dict) -> dict:
    """Return status by name of names by status."""
    return {name: status for status, names in by_status.items() for name in names.split()}


HTTP = _flat(
    {
        200: """
        classes-but-no-picture images-and-image a-value-too-large output-twice
        classification-of-maps classification-of-too-many id-is-too-long class-too-large
        class-too-small class-far-too-small no-classes 101-classes likeliest-beyond-the-ranks
        text-as-a-picture an-empty-picture the-second-is-no-picture a-png-of-400-megapixels
        a-png-with-too-few-rows a-picture-that-is-not-base64
        shared-memory-status
    """,
        400: """
        smaller-pictures no-batch channels-first another-datatype unknown-datatype bfloat16
        unknown-input half-a-character-as-a-name input-without-a-name an-input-too-many
        images-twice inputs-is-empty an-input-is-a-number empty-body no-data
        sizes-whose-product-overflows sizes-of-a-terabyte a-hundred-sizes no-pictures
        nine-pictures data-beside-raw-bytes raw-size-absurd raw-size-of-another-shape
        raw-bytes-cut-off raw-bytes-go-on parameters-of-an-input-is-a-list json-length-negative
        json-length-as-text json-length-in-hex json-length-absurd json-length-larger-than-the-body
        json-length-zero json-length-too-long unknown-output classes-without-a-batch
        classes-of-another-batch classes-as-int32 pictures-in-two-columns
        fewer-pictures-than-the-shape a-picture-longer-than-the-bytes half-a-length
        a-picture-of-uint8 stats-of-an-unknown-model is-an-unknown-model-ready gzip-that-is-none
        deflate-that-is-none gzip-of-nothing
    """,
        404: """
        output-in-shared-memory input-in-shared-memory unknown-model unknown-version
        a-version-that-is-text a-model-outside-of-its-folder a-model-with-a-line-break
        unknown-route metadata-of-an-unknown-model config-of-an-unknown-model
    """,
        405: """
        get-infer put-infer an-unknown-method
    """,
        500: """
        datatype-is-a-number datatype-is-half-a-character no-datatype no-inputs
        inputs-is-an-object inputs-is-null a-list null no-json json-cut-off not-utf-8
        a-nul-in-json not-a-number infinity beyond-any-float a-number-of-5000-digits deep-lists
        deep-objects deep-data strings booleans-among-numbers floats nulls objects
        a-long-string-among-numbers a-value-too-small a-value-beyond-64-bits a-value-of-400-digits
        ragged too-few-values too-many-values data-is-a-number data-is-an-object negative-size
        two-negative-sizes size-beyond-64-bits half-a-size sizes-as-text a-boolean-size
        shape-is-a-number no-shape raw-size-negative raw-size-of-400-digits raw-size-as-text
        raw-size-is-true json-length-with-a-plus json-length-two-numbers json-length-too-short
        output-without-a-name output-is-named-by-a-number outputs-is-an-object
        classification-negative classification-as-text classification-of-400-digits
        raw-output-as-text id-is-a-number parameters-is-a-list timeout-as-text timeout-negative
        timeout-of-400-digits a-class-and-a-half class-by-name a-picture-that-is-a-number
        index-with-bad-json index-ready-as-text
    """,
        501: """
        unknown-encoding
    """,
        503: """
        loading-a-model
    """,
    }
)

GRPC = _flat(
    {
        "INTERNAL": """
        garbage a-message-that-is-cut-off a-length-beyond-the-message text-that-is-not-utf-8
        a-group-that-never-ends SystemSharedMemoryRegister
    """,
        "INVALID_ARGUMENT": """
        smaller-pictures no-batch another-datatype unknown-datatype no-datatype unknown-input
        input-without-a-name negative-size two-negative-sizes sizes-whose-product-overflows
        a-size-of-63-bits a-hundred-sizes no-sizes no-pictures nine-pictures too-few-bytes
        too-many-bytes no-inputs images-twice an-input-too-many fewer-raw-contents-than-inputs
        raw-and-typed-contents one-raw-and-one-typed no-contents another-kind-of-contents
        two-kinds-of-contents typed-fp16 too-few-values too-many-values
        contents-of-an-unknown-datatype input-in-shared-memory classes-without-a-batch
        classes-of-another-batch classes-as-int32 pictures-in-two-columns
        fewer-pictures-than-the-shape a-picture-longer-than-the-bytes half-a-length unknown-output
        output-without-a-name classification-negative classification-as-text
        classification-is-true timeout-as-text a-version-that-is-text
        a-request-of-nothing-but-a-model outputs-and-no-inputs stats-of-an-unknown-model
    """,
        "NOT_FOUND": """
        output-in-shared-memory unknown-model no-model unknown-version an-empty-message
        metadata-of-an-unknown-model metadata-of-an-unknown-version config-of-an-unknown-model
    """,
        "OK": """
        classes-but-no-picture images-and-image more-raw-contents-than-inputs a-value-too-large
        class-too-large class-too-small no-classes 101-classes likeliest-beyond-the-ranks
        text-as-a-picture an-empty-picture the-second-is-no-picture a-png-of-400-megapixels
        output-twice classification-of-maps classification-of-too-many id-is-too-long
        timeout-negative SystemSharedMemoryStatus CudaSharedMemoryStatus
        TraceSetting LogSettings
    """,
        "UNAVAILABLE": """
        RepositoryModelLoad RepositoryModelUnload
    """,
        "UNIMPLEMENTED": """
        NoSuchMethod
    """,
    }
)

#: Where Triton lets through what only a model can know, its answer says nothing about it.
_LEFT_TO_THE_MODEL = """
    classes-but-no-picture images-and-image class-too-large class-too-small class-far-too-small
    no-classes 101-classes likeliest-beyond-the-ranks text-as-a-picture an-empty-picture
    the-second-is-no-picture a-png-of-400-megapixels a-png-with-too-few-rows
"""
_SHARED_MEMORY = "there is no shared memory here"
_TWICE = "what is asked for twice, or means nothing, is refused and not passed over"
_UNKNOWN = "an unknown model is not found, whatever is asked about it"

#: Why an answer differs from Triton's: names of probes by reasons.
HTTP_DIFFERS = {
    "whether the model can answer is known here": _LEFT_TO_THE_MODEL,
    # Triton says 500 to every JSON that it cannot read; that is added by the test.
    "binary data in JSON is base64 here, and text in Triton": "a-picture-that-is-not-base64",
    "a value that does not fit is refused and not cut": "a-value-too-large",
    _TWICE: """
        output-twice classification-of-maps classification-of-too-many id-is-too-long
    """,
    _SHARED_MEMORY: "output-in-shared-memory input-in-shared-memory shared-memory-status",
    "the models are those that the server was started with": "loading-a-model",
    _UNKNOWN: "stats-of-an-unknown-model is-an-unknown-model-ready",
    "HTTP has a status of its own for it": "unknown-encoding",
}
GRPC_DIFFERS = {
    "whether the model can answer is known here": _LEFT_TO_THE_MODEL,
    "a value that does not fit is refused and not cut": "a-value-too-large",
    _TWICE: """
        output-twice classification-of-maps classification-of-too-many id-is-too-long
        more-raw-contents-than-inputs timeout-negative
    """,
    "a broken message is the client's fault": """
        garbage a-message-that-is-cut-off a-length-beyond-the-message text-that-is-not-utf-8
        a-group-that-never-ends
    """,
    _SHARED_MEMORY: """
        output-in-shared-memory input-in-shared-memory SystemSharedMemoryStatus
        SystemSharedMemoryRegister CudaSharedMemoryStatus
    """,
    "the models are those that the server was started with": """
        RepositoryModelLoad RepositoryModelUnload
    """,
    "traces and logs are set up when the server starts": "TraceSetting LogSettings",
    _UNKNOWN: "stats-of-an-unknown-model a-version-that-is-text",
}
