"""What must be true of any implementation of the tasks in ``manifold_tangents``.

``probe_X`` calls an implementation on inputs drawn from the seed and returns what came out; ``verify_X`` decides,
from what it derives itself: Jacobians by finite differences in NumPy, planes that were made with known angles, and
NumPy's least squares and singular values, one image at a time.
"""

from functools import partial

import numpy as np
import torch

from course_lib.grading import verdicts

close = partial(verdicts.close, exact=1e-6, rough=3e-3, typed=True)

DTYPES = ("float64", "float32")
COUNTS = (4, 1)  # images


def kept(given, before):
    return np.array(
        all(
            torch.equal(one.detach(), torch.tensor(other)) and not one.requires_grad
            for one, other in zip(given, before, strict=True)
        )
    )


def orthogonal(random, rows, columns):
    """Orthonormal rows in a random direction."""
    return np.linalg.qr(random.normal(size=(columns, rows)))[0].T


def verify_rows(found, wanted, what, dtype):
    """Orthonormal rows, equal to the wanted ones one by one, but for their signs."""
    shaped = np.where(np.isfinite(found), found, 0) if found.shape == wanted.shape else wanted
    close(found, shaped, what, dtype)
    for rows, right in zip(found.astype("float64"), wanted, strict=True):
        gram = rows @ rows.T
        assert np.abs(gram - np.eye(len(gram))).max() < 1e-3, f"{what}: the rows are not orthonormal"
        loss = np.abs(right - right @ rows.T @ rows).max()
        assert loss < (1e-5 if dtype == "float64" else 1e-2), f"{what}: the rows span another plane, by {loss:.1g}"
        agreement = np.abs((rows * right).sum(axis=1)).min()
        assert agreement > 1 - 1e-3, f"{what}: the right plane, but the rows are in another order, or mixed"


# --- networks that torch and NumPy both know -----------------------------------------------------------------------


def draw_network(random, sizes):
    """Weights of a network whose first layer has well separated singular values."""
    weights = []
    for index, (many, few) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        rank = min(many, few)
        spectrum = 1.6 * 0.7 ** np.arange(rank) if index == 0 else 1 + 0 * np.arange(rank)
        weights.append(orthogonal(random, rank, few).T * spectrum @ orthogonal(random, rank, many))
    return weights, [0.3 * random.normal(size=few) for few in sizes[1:]]


def network(parameters, x, numpy):
    """tanh layers and a linear read-out, on rows."""
    weights, biases = parameters
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = x @ weight.T + bias
        if index < len(weights) - 1:
            x = np.tanh(x) if numpy else torch.tanh(x)
    return x


def as_torch(parameters, dtype, requires_grad=False):
    return [
        [torch.tensor(array.astype(dtype), requires_grad=requires_grad) for array in arrays] for arrays in parameters
    ]


def jacobian(parameters, x, step=1e-5):
    """Central differences, (image, output, pixel)."""
    columns = []
    for direction in np.eye(x.shape[1]):
        high, low = (network(parameters, x + sign * step * direction, numpy=True) for sign in (1, -1))
        columns.append((high - low) / (2 * step))
    return np.stack(columns, axis=-1)


# --- encoder_tangents ----------------------------------------------------------------------------------------------


def draw_encoder(seed, count):
    """Seeds take turns: a code smaller than the image, and one larger."""
    random = np.random.default_rng([seed, 1, count])
    pixels = int(random.integers(6, 10))
    code = pixels - 2 if seed % 2 else pixels + 5
    for _ in range(200):
        parameters = draw_network(random, (pixels, pixels + 3, code))
        x = 0.7 * random.normal(size=(count, pixels))
        spectra = np.linalg.svd(jacobian(parameters, x))[1][:, :5]
        if (spectra[:, 1:] < 0.9 * spectra[:, :-1]).all():  # no two rows can be mixed by rounding
            break
    return parameters, x, int(random.integers(2, 5))


def probe_encoder_tangents(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for count in COUNTS:
            parameters, x, k = draw_encoder(seed, count)
            before = x.astype(dtype)
            given, tensors = torch.tensor(before), as_torch(parameters, dtype, requires_grad=True)
            found = implementation(lambda images, held=tensors: network(held, images, numpy=False), given, k)
            out[f"tangents {dtype} {count}"] = found.detach().numpy()
            out[f"detached {dtype} {count}"] = np.array(not found.requires_grad)
            out[f"kept {dtype} {count}"] = kept([given], [before])
    return out


def verify_encoder_tangents(arrays, seed):
    for dtype in DTYPES:
        for count in COUNTS:
            parameters, x, k = draw_encoder(seed, count)
            wanted = np.linalg.svd(jacobian(parameters, x))[2][:, :k]
            what = f"{k} tangents of a batch of {count}"
            verify_rows(arrays[f"tangents {dtype} {count}"], wanted, what, dtype)
            assert arrays[f"detached {dtype} {count}"], "tangents are data: return them detached, without a gradient"
            assert arrays[f"kept {dtype} {count}"], "the images were changed: leave them as they are"


# --- local_pca_tangents --------------------------------------------------------------------------------------------


def draw_clouds(seed, count):
    """Flat clouds, each around its own centre, ever farther from zero; some images are among the data.

    Around the first image there are more points: nearer in the sum of absolute differences or in the largest one than
    some neighbours, and nearer in direction, but all of them farther in Euclid's distance.
    """
    random = np.random.default_rng([seed, 2, count])
    pixels, neighbours = int(random.integers(6, 10)), int(random.integers(8, 12))
    clouds, x = [], []
    for index in range(count + 1):
        spread = 0.5 ** np.arange(pixels) * random.choice([-1, 1], size=(neighbours, pixels))
        spread = (spread + 0.3 * spread * random.normal(size=spread.shape)) @ orthogonal(random, pixels, pixels)
        cloud = (8 + 6 * index) * orthogonal(random, 1, pixels) + 5 * np.eye(pixels)[index % pixels] + spread
        clouds.append(cloud)
        x.append(cloud[0] if index % 2 == 0 else cloud.mean(axis=0) + 0.4 * spread[0])
    reach = np.sort(np.linalg.norm(clouds[0] - x[0], axis=1))[-1]
    axis, corner = np.eye(pixels)[0], np.ones(pixels) / np.sqrt(pixels)
    decoys = [x[0] + sign * 1.15 * reach * way for sign in (-1, 1) for way in (axis, corner)]
    data = np.concatenate([*clouds, decoys, [1.3 * x[0], 1.4 * x[0]]])
    data = data[random.permutation(len(data))]
    return np.stack(x[:count]), data, neighbours, int(random.integers(2, 4))


def nearest_plane(point, data, neighbours):
    order = np.argsort(((data - point) ** 2).sum(axis=1), kind="stable")
    cloud = data[order[:neighbours]]
    return np.linalg.svd(cloud - cloud.mean(axis=0))[1:]


def draw_pca(seed, count):
    """Clouds in which neither the neighbours nor the order of the directions hang on rounding."""
    for attempt in range(200):
        x, data, neighbours, k = draw_clouds(seed + 1000 * attempt, count)
        clear = True
        for point in x:
            distances = np.sort(((data - point) ** 2).sum(axis=1))
            spectrum = nearest_plane(point, data, neighbours)[0]
            clear &= distances[neighbours] > 1.05 * distances[neighbours - 1] + 0.05
            clear &= bool((spectrum[1 : k + 1] < 0.9 * spectrum[:k]).all())
        if clear:
            return x, data, neighbours, k
    raise AssertionError("no clear clouds for this seed")


def probe_local_pca_tangents(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for count in COUNTS:
            x, data, neighbours, k = draw_pca(seed, count)
            before = [x.astype(dtype), data.astype(dtype)]
            given = [torch.tensor(array) for array in before]
            out[f"tangents {dtype} {count}"] = implementation(*given, neighbours, k).detach().numpy()
            out[f"kept {dtype} {count}"] = kept(given, before)
    return out


def verify_local_pca_tangents(arrays, seed):
    for dtype in DTYPES:
        for count in COUNTS:
            x, data, neighbours, k = draw_pca(seed, count)
            wanted = np.stack([nearest_plane(point, data, neighbours)[1][:k] for point in x])
            what = f"{k} tangents of a batch of {count}, from {neighbours} neighbours among {len(data)}"
            verify_rows(arrays[f"tangents {dtype} {count}"], wanted, what, dtype)
            assert arrays[f"kept {dtype} {count}"], "an argument was changed: leave them as they are"


# --- tangent_split -------------------------------------------------------------------------------------------------


def draw_split(seed, count):
    """Tangents of any length and angle; in a larger batch one set is dependent, and one is all zeros."""
    random = np.random.default_rng([seed, 3, count])
    pixels, tangents = int(random.integers(7, 14)), int(random.integers(2, 5))
    vectors, planes = random.normal(size=(count, pixels)), random.normal(size=(count, tangents, pixels))
    planes[0] *= 30 if count > 1 else 1e-4
    if count > 1:
        planes[1, 1] = -2 * planes[1, 0]
        planes[-1] = 0
    return vectors, planes


def probe_tangent_split(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for count in COUNTS:
            before = [array.astype(dtype) for array in draw_split(seed, count)]
            given = [torch.tensor(array) for array in before]
            parts = implementation(*given)
            for name, part in zip(("along", "across"), parts, strict=True):
                out[f"{name} {dtype} {count}"] = part.detach().numpy()
            out[f"kept {dtype} {count}"] = kept(given, before)
            leaf = given[0].clone().requires_grad_()
            parts = implementation(leaf, given[1])
            (parts[0].square().sum() + 3 * parts[1].square().sum() + 0 * leaf.sum()).backward()
            out[f"gradient {dtype} {count}"] = leaf.grad.numpy()
    return out


def verify_tangent_split(arrays, seed):
    for dtype in DTYPES:
        for count in COUNTS:
            vectors, planes = draw_split(seed, count)
            along = np.stack(
                [
                    plane.T @ np.linalg.lstsq(plane.T, vector, rcond=1e-9)[0]
                    for vector, plane in zip(vectors, planes, strict=True)
                ]
            )
            what = f"(batch of {count}; tangents of any length and angle)"
            close(arrays[f"along {dtype} {count}"], along, f"the first part, along the plane {what}", dtype)
            close(
                arrays[f"across {dtype} {count}"], vectors - along, f"the second part, across the plane {what}", dtype
            )
            gradient = 2 * along + 6 * (vectors - along)
            close(arrays[f"gradient {dtype} {count}"], gradient, "the gradient of ‖along‖² + 3·‖across‖²", dtype)
            assert arrays[f"kept {dtype} {count}"], "an argument was changed: leave them as they are"


# --- principal_angles ----------------------------------------------------------------------------------------------


def draw_planes(seed, count):
    """Pairs of planes with known angles, some of them tiny, one of them right; given by skew bases.

    The larger plane comes first in one batch and second in the other.
    """
    random = np.random.default_rng([seed, 4, count])
    many, few = int(random.integers(3, 5)), 2
    pixels, fewest = many + few + int(random.integers(1, 5)), min(many, few)
    a, b, angles = [], [], []
    for index in range(count):
        theta = np.sort(random.uniform(0.1, 1.5, size=fewest))
        theta[0] = (1e-5, 0.0, 1e-7, 3e-4)[(index + seed) % 4]
        if index % 2:
            theta[-1] = np.pi / 2
        axes = orthogonal(random, many + few, pixels)
        first, second = axes[:many], axes[many:].copy()
        second[:fewest] = np.cos(theta)[:, None] * first[:fewest] + np.sin(theta)[:, None] * axes[many : many + fewest]
        for planes, rows in ((a, first), (b, second)):
            mixing = orthogonal(random, len(rows), len(rows)) @ np.diag(random.uniform(0.5, 2, len(rows)))
            planes.append(mixing @ orthogonal(random, len(rows), len(rows)) @ rows)
        angles.append(theta)
    a, b = np.stack(a), np.stack(b)
    return (b, a, np.stack(angles)) if (seed + count) % 2 else (a, b, np.stack(angles))


def probe_principal_angles(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for count in COUNTS:
            before = [array.astype(dtype) for array in draw_planes(seed, count)[:2]]
            given = [torch.tensor(array) for array in before]
            out[f"angles {dtype} {count}"] = implementation(*given).detach().numpy()
            out[f"itself {dtype} {count}"] = implementation(given[0], given[0].flip(1)).detach().numpy()
            out[f"kept {dtype} {count}"] = kept(given, before)
    return out


def verify_principal_angles(arrays, seed):
    for dtype in DTYPES:
        rough = 1e-12 if dtype == "float64" else 1e-5
        for count in COUNTS:
            a, _, wanted = draw_planes(seed, count)
            found = arrays[f"angles {dtype} {count}"]
            close(found, wanted, "an angle, or their order (smallest first)", dtype)
            small = wanted < 0.01
            gap = np.abs(found.astype("float64") - wanted)[small].max()
            assert gap < rough, f"a small angle is off by {gap:.1g} in {dtype}: the arccosine loses it, what does not?"
            large = wanted > 1.5
            if large.any():
                gap = np.abs(found.astype("float64") - wanted)[large].max()
                assert gap < rough, (
                    f"a right angle is off by {gap:.1g} in {dtype}: the arcsine loses it, what does not?"
                )
            itself = arrays[f"itself {dtype} {count}"]
            close(
                itself,
                np.zeros((count, a.shape[1])),
                "the angles of a plane with itself",
                dtype,
                exact=rough,
                rough=rough,
            )
            assert arrays[f"kept {dtype} {count}"], "an argument was changed: leave them as they are"


# --- mtc_loss ------------------------------------------------------------------------------------------------------


def draw_loss(seed, count):
    """A network, images, labels, tangents of any length, a strength."""
    random = np.random.default_rng([seed, 5, count])
    pixels, classes, tangents = int(random.integers(5, 9)), int(random.integers(3, 6)), int(random.integers(2, 5))
    parameters = draw_network(random, (pixels, 7, classes))
    x, y = random.normal(size=(count, pixels)), random.integers(0, classes, size=count)
    return parameters, x, y, random.normal(size=(count, tangents, pixels)), float(random.uniform(0.3, 1.5))


def objective(parameters, x, y, tangents, strength, step=1e-4):
    """The loss in NumPy, its directional derivatives by central differences (of fourth order)."""
    scores = network(parameters, x, numpy=True)
    largest = scores.max(axis=1, keepdims=True)
    logarithm = np.log(np.exp(scores - largest).sum(axis=1)) + largest[:, 0]
    error = (logarithm - scores[np.arange(len(y)), y]).mean()
    total = 0.0
    for j in range(tangents.shape[1]):
        near, far = (
            network(parameters, x + width * step * tangents[:, j], numpy=True)
            - network(parameters, x - width * step * tangents[:, j], numpy=True)
            for width in (1, 2)
        )
        total += (((8 * near - far) / (12 * step)) ** 2).sum(axis=1).mean()
    return error + strength * total


def probe_mtc_loss(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for count in COUNTS:
            parameters, x, y, tangents, strength = draw_loss(seed, count)
            before = [x.astype(dtype), y, tangents.astype(dtype)]
            given = [torch.tensor(array) for array in before]
            tensors = as_torch(parameters, dtype, requires_grad=True)

            def model(images, held=tensors):
                return network(held, images, numpy=False)

            loss = implementation(model, *given, strength)
            out[f"loss {dtype} {count}"] = loss.detach().numpy()
            (loss + 0 * tensors[0][0].sum() + 0 * tensors[0][1].sum()).backward()
            for layer in (0, 1):
                out[f"gradient {layer} {dtype} {count}"] = tensors[0][layer].grad.numpy()
            out[f"plain {dtype} {count}"] = implementation(model, *given, 0.0).detach().numpy()
            out[f"kept {dtype} {count}"] = kept(given, before)
    return out


def verify_mtc_loss(arrays, seed):
    for dtype in DTYPES:
        for count in COUNTS:
            parameters, *rest = draw_loss(seed, count)
            what = f"for a batch of {count}"
            close(
                arrays[f"plain {dtype} {count}"],
                objective(parameters, *rest[:3], 0.0),
                f"the loss {what} at strength 0",
                dtype,
            )
            close(arrays[f"loss {dtype} {count}"], objective(parameters, *rest), f"the loss {what}", dtype, exact=1e-7)
            assert arrays[f"kept {dtype} {count}"], "an argument was changed: leave them as they are"
            random = np.random.default_rng([seed, 6])
            for layer in (0, 1):  # the derivative along a random direction of each weight matrix
                direction = random.normal(size=parameters[0][layer].shape)
                moved = []
                for sign in (1, -1):
                    weights = list(parameters[0])
                    weights[layer] = weights[layer] + sign * 1e-5 * direction
                    moved.append(objective((weights, parameters[1]), *rest))
                wanted = (moved[0] - moved[1]) / 2e-5
                gradient = arrays[f"gradient {layer} {dtype} {count}"].astype("float64")
                gap = abs((gradient * direction).sum() - wanted)
                assert gap < 3e-3 * max(1, abs(wanted)), f"the gradient of layer {layer + 1}'s weights is off {what}"
