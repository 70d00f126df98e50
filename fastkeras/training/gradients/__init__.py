"""Steps of several gradients, adversarial training, gradients turned around or cut."""
