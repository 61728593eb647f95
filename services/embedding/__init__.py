"""The embedding service: text to vectors. It knows neither documents nor collections."""
