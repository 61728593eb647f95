"""KServe's Open Inference Protocol and what of Triton's extensions applies: models as functions of tensors."""
