"""Published weights, tensor by tensor, into our parameters and back."""
