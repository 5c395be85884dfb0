"""The OpenAPI document of the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from tame_deploy import __version__
from tame_deploy.artifact.types import Task

__all__ = ["openapi_document"]

_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string"},
        "data": {"type": "array", "items": {}},
        "parameters": {"type": "object"},
    },
}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object that has all these properties."""
    return {"type": "object", "required": list(properties), "properties": properties}


_SCHEMAS: dict[str, Any] = {
    "Error": _object(error={"type": "string"}),
    "Live": _object(live={"type": "boolean"}),
    "Ready": _object(ready={"type": "boolean"}),
    "ModelReady": _object(name={"type": "string"}, ready={"type": "boolean"}),
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "minItems": 1, "items": _TENSOR},
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
                },
            },
        },
    },
    "InferResponse": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": _TENSOR},
        },
    },
    "Explanation": {
        "type": "object",
        "required": ["model_name", "classes", "explained", "visible_box", "picture_size"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "task": {"type": "string", "enum": list(get_args(Task))},
            "classes": {"type": "array", "items": {"$ref": "#/components/schemas/Class"}},
            "explained": {"type": "array", "items": {"$ref": "#/components/schemas/Class"}},
            "visible_box": {"type": "array", "items": {"type": "number"}},
            "picture_size": {"type": "array", "items": {"type": "integer"}},
            "picture_png": {"type": "string", "format": "byte"},
            "speed_only": {"type": "boolean"},
            "timing_ms": {"type": "object", "additionalProperties": {"type": "number"}},
        },
    },
    "Class": {
        "type": "object",
        "required": ["class_id", "name", "probability"],
        "properties": {
            "class_id": {"type": "integer"},
            "name": {"type": "string"},
            "probability": {"type": "number", "minimum": 0, "maximum": 1},
            "versus": {"$ref": "#/components/schemas/Class"},
            "map": {"type": "object"},
            "map_png": {"type": "string", "format": "byte"},
            "overlay_png": {"type": "string", "format": "byte"},
        },
    },
}
_EXPLAIN_QUERY = [
    ("class_id", {"type": "array", "items": {"type": "integer"}}),
    ("label", {"type": "array", "items": {"type": "string"}}),
    ("top_k", {"type": "integer", "minimum": 1}),
    ("versus", {"type": "string"}),
    ("top", {"type": "integer", "minimum": 1}),
    ("threshold", {"type": "number", "minimum": 0, "maximum": 1}),
    ("maps", {"type": "string", "enum": ["list", "png", "none"]}),
    ("overlay", {"type": "string", "enum": ["true", "false"]}),
    ("picture", {"type": "string", "enum": ["true", "false"]}),
]


def openapi_document(models: Sequence[str]) -> dict[str, Any]:
    """Return the document; `models` are the names that paths may have."""
    paths: dict[str, Any] = {
        "/v2": {"get": _operation("What this server is.", {"type": "object"})},
        "/v2/health/live": {"get": _health("Whether it runs.", "Live")},
        "/v2/health/ready": {"get": _health("Whether every model answers.", "Ready")},
        "/v2/repository/index": {
            "post": _operation("The models and their states.", {"type": "array"}, 400)
            | _body({"type": "object", "properties": {"ready": {"type": "boolean"}}})
        },
        "/v2/models/stats": {"get": _operation("Statistics of all models.", {"type": "object"})},
        "/metrics": {"get": _operation("Prometheus' metrics.", None)},
    }
    named = [{"name": "model", "in": "path", "required": True,
              "schema": {"type": "string", "enum": list(models)}}]  # fmt: skip
    plain = {"": "What it takes and gives.", "/config": "How it is run.", "/stats": "Statistics."}
    for suffix, words in plain.items():
        operation = _operation(words, {"type": "object"}, 404, 503)
        paths[f"/v2/models/{{model}}{suffix}"] = {"parameters": named, "get": operation}
    paths["/v2/models/{model}/ready"] = {
        "parameters": named, "get": _health("Whether it answers.", "ModelReady", 404),
    }  # fmt: skip
    refused = (400, 404, 408, 413, 415, 501, 503, 504)
    infer = _operation("Run it on tensors.", _ref("InferResponse"), *refused)
    paths["/v2/models/{model}/infer"] = {
        "parameters": named, "post": infer | _body(_ref("InferRequest")),
    }  # fmt: skip
    paths["/v2/models/{model}/explain"] = {"parameters": named, "post": _explain(*refused)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "tame-deploy", "version": __version__},
        "paths": paths,
        "components": {"schemas": _SCHEMAS},
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


def _operation(summary: str, schema: dict[str, Any] | None, *refused: int) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "answered"}
    if schema is not None:
        good["content"] = {"application/json": {"schema": schema}}
    error = {"content": {"application/json": {"schema": _ref("Error")}}}
    bad = {str(status): {"description": "refused", **error} for status in (401, 421, *refused)}
    return {"summary": summary, "responses": {"200": good, **bad}}


def _health(summary: str, schema: str, *refused: int) -> dict[str, Any]:
    """Return an operation whose 503 has the same body as its 200."""
    operation = _operation(summary, _ref(schema), *refused)
    content = {"application/json": {"schema": _ref(schema)}}
    operation["responses"]["503"] = {"description": "not ready", "content": content}
    return operation


def _explain(*refused: int) -> dict[str, Any]:
    operation = _operation("Explain a picture's file.", _ref("Explanation"), *refused)
    binary = {"schema": {"type": "string", "format": "binary"}}
    kinds = ("image/jpeg", "image/png", "application/octet-stream")
    operation["requestBody"] = {"required": True, "content": dict.fromkeys(kinds, binary)}
    operation["parameters"] = [
        {"name": name, "in": "query", "schema": schema} for name, schema in _EXPLAIN_QUERY
    ]
    return operation
