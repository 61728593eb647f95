"""KServe's Open Inference Protocol and the Triton extensions that apply: models as functions of tensors."""
