"""Steps of several gradients, adversarial training, gradients reversed or cut."""
