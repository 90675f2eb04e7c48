"""The ops of a transformer layer and what surrounds the layers."""
