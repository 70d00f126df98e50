"""What one step of each rule does to one variable: functions (xp, p, g, slots, c).

They return what is to be added to the parameter, and the new slots. Numba compiles those of one
number from this text. docs/optimizers.md has the formulas in their usual notation, with sources.
"""


def sgd(xp, p, g, slots, c):
    (rate,) = c
    return -g * rate, ()


def momentum(xp, p, g, slots, c):
    rate, mu = c
    momentum = slots[0] * mu - g * rate
    return momentum, (momentum,)


def nesterov(xp, p, g, slots, c):
    rate, mu = c
    momentum = slots[0] * mu - g * rate
    return momentum * mu - g * rate, (momentum,)


def adam(xp, p, g, slots, c):
    rate, rest_1, rest_2, epsilon = c
    momentum = slots[0] + (g - slots[0]) * rest_1
    velocity = slots[1] + (g * g - slots[1]) * rest_2
    return -momentum * rate / (xp.sqrt(velocity) + epsilon), (momentum, velocity)


def amsgrad(xp, p, g, slots, c):
    rate, rest_1, rest_2, epsilon = c
    momentum = slots[0] + (g - slots[0]) * rest_1
    velocity = slots[1] + (g * g - slots[1]) * rest_2
    largest = xp.maximum(slots[2], velocity)
    return -momentum * rate / (xp.sqrt(largest) + epsilon), (momentum, velocity, largest)


def nadam(xp, p, g, slots, c):
    of_momentum, of_gradient, rest_1, rest_2, unbias_2, epsilon = c
    momentum = slots[0] + (g - slots[0]) * rest_1
    velocity = slots[1] + (g * g - slots[1]) * rest_2
    step = momentum * of_momentum + g * of_gradient
    return -step / (xp.sqrt(velocity * unbias_2) + epsilon), (momentum, velocity)


def lion(xp, p, g, slots, c):
    rate, beta_1, rest_1, beta_2, rest_2 = c
    direction = xp.sign(slots[0] * beta_1 + g * rest_1)
    return -direction * rate, (slots[0] * beta_2 + g * rest_2,)


def rmsprop(xp, p, g, slots, c):
    rate, rho, rest, epsilon = c
    velocity = slots[0] * rho + g * g * rest
    return -g * rate / xp.sqrt(velocity + epsilon), (velocity,)


def rmsprop_momentum(xp, p, g, slots, c):
    rate, rho, rest, epsilon, mu = c
    velocity = slots[0] * rho + g * g * rest
    momentum = slots[1] * mu + g * rate / xp.sqrt(velocity + epsilon)
    return -momentum, (velocity, momentum)


def centered_rmsprop(xp, p, g, slots, c):
    rate, rho, rest, epsilon = c
    velocity = slots[0] * rho + g * g * rest
    average = slots[1] * rho + g * rest
    return -g * rate / xp.sqrt(velocity - average * average + epsilon), (velocity, average)


def centered_rmsprop_momentum(xp, p, g, slots, c):
    rate, rho, rest, epsilon, mu = c
    velocity = slots[0] * rho + g * g * rest
    average = slots[2] * rho + g * rest
    spread = xp.sqrt(velocity - average * average + epsilon)
    momentum = slots[1] * mu + g * rate / spread
    return -momentum, (velocity, momentum, average)


def adagrad(xp, p, g, slots, c):
    rate, epsilon = c
    accumulator = slots[0] + g * g
    return -g * rate / xp.sqrt(accumulator + epsilon), (accumulator,)


def lamb(xp, p, g, slots, c):
    rate, rest_1, rest_2, unbias_1, unbias_2, epsilon = c
    momentum = slots[0] + (g - slots[0]) * rest_1
    velocity = slots[1] + (g * g - slots[1]) * rest_2
    direction = momentum * unbias_1 / (xp.sqrt(velocity * unbias_2) + epsilon)
    return -direction * rate, (momentum, velocity)


def ademamix(xp, p, g, slots, c):
    of_fast, of_slow, rest_1, rest_2, rest_3, epsilon = c
    fast = slots[0] + (g - slots[0]) * rest_1
    slow = slots[1] + (g - slots[1]) * rest_3
    velocity = slots[2] + (g * g - slots[2]) * rest_2
    step = fast * of_fast + slow * of_slow
    return -step / (xp.sqrt(velocity) + epsilon), (fast, slow, velocity)


def schedule_free_sgd(xp, p, g, slots, c):
    rate, of_step, weight = c
    step = -g * rate
    return step * of_step + (slots[0] - p) * weight, (slots[0] + step,)


def schedule_free_adamw(xp, p, g, slots, c):
    rate, of_step, weight, rest_2, unbias_2, epsilon = c
    velocity = slots[1] + (g * g - slots[1]) * rest_2
    step = -g * rate / (xp.sqrt(velocity * unbias_2) + epsilon)
    return step * of_step + (slots[0] - p) * weight, (slots[0] + step, velocity)


NOTHING = 1.2e-38  # what is smaller is denormal in float32, and 0 where threads flush it
SMALLEST_SHARE = 1e-3  # of the numbers of a variable, to which steps are scaled up


def cautious(xp, change, direction, g):
    """Keep a change where its direction agrees in sign with the gradient, scaled by their share.

    "Cautious Optimizers", Liang et al. 2024, https://arxiv.org/abs/2411.16085.
    """
    up = (direction > NOTHING) & (g > NOTHING)
    agrees = xp.cast(up | ((direction < -NOTHING) & (g < -NOTHING)), change.dtype)
    share = xp.mean(agrees)
    return change * agrees / xp.maximum(share, xp.ones_like(share) * SMALLEST_SHARE)


def cautious_adam(xp, p, g, slots, c):
    change, (momentum, velocity) = adam(xp, p, g, slots, c)
    return cautious(xp, change, momentum, g), (momentum, velocity)


def cautious_lion(xp, p, g, slots, c):
    _, beta_1, rest_1, _, _ = c
    change, slots_after = lion(xp, p, g, slots, c)
    return cautious(xp, change, slots[0] * beta_1 + g * rest_1, g), slots_after


def stable_adamw(xp, p, g, slots, c):
    rate, rest_1, rest_2, unbias_2, epsilon, decay = c
    momentum = slots[0] + (g - slots[0]) * rest_1
    velocity = slots[1] + (g * g - slots[1]) * rest_2
    root = xp.sqrt(velocity * unbias_2)
    size = g / xp.maximum(root, xp.ones_like(root) * epsilon)
    mean = xp.mean(size * size)
    step = momentum * rate / (root + epsilon) + p * decay
    return -step / xp.sqrt(xp.maximum(mean, xp.ones_like(mean))), (momentum, velocity)


def adam_mini(xp, p, g, slots, c):
    rate, rest_1, rest_2, epsilon = c
    momentum = slots[0] + (g - slots[0]) * rest_1
    within = tuple(i for i, count in enumerate(slots[1].shape) if count != p.shape[i])
    square = xp.mean(g * g, axis=within, keepdims=True) if within else g * g
    velocity = slots[1] + (square - slots[1]) * rest_2
    return -momentum * rate / (xp.sqrt(velocity) + epsilon), (momentum, velocity)


def adafactor(xp, p, g, slots, c):
    multiplier, rho, beta_2, epsilon_1, epsilon_2, threshold = c
    row, column, velocity = slots
    square = g * g + epsilon_1
    if len(p.shape) >= 2:  # the last two axes are factored
        row = row * beta_2 + xp.mean(square, axis=-1) * (1 - beta_2)
        column = column * beta_2 + xp.mean(square, axis=-2) * (1 - beta_2)
        share = row / xp.mean(row, axis=-1, keepdims=True)
        velocity = xp.expand_dims(share, -1) * xp.expand_dims(column, -2)
    else:
        velocity = velocity * beta_2 + square * (1 - beta_2)
    update = g / xp.sqrt(velocity)
    one = xp.ones_like(xp.mean(update))
    update = update / xp.maximum(one, xp.sqrt(xp.mean(update * update)) / threshold)
    size = xp.maximum(one * epsilon_2, xp.sqrt(xp.mean(p * p)))
    return -update * (size * rho * multiplier), (row, column, velocity)


def by_trust_ratio(xp, p, g, slots, c, update, rate):
    """Scale the step to the length of the parameter, times the rate.

    "LARS", You et al. 2017, https://arxiv.org/abs/1708.03888; with Adam it is "LAMB",
    https://arxiv.org/abs/1904.00962.
    """
    change, slots = update(xp, p, g, slots, c)
    of_parameter, of_change = (xp.sqrt(xp.sum(x * x)) for x in (p, change))
    nothing = (of_parameter == 0) | (of_change == 0)
    one = xp.ones_like(of_change)
    ratio = xp.where(nothing, one, of_parameter * rate / xp.where(nothing, one, of_change))
    return change * ratio, slots
