"""manifold_tangents: wrong and right versions of each task, independent peers, closed forms, bad input."""

import math

import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from course_lib import manifold_tangents as library
from course_lib.data import digits
from course_lib.tangent_distance import orthonormal_tangents, tangent_vectors

ENCODER = """
def tangents(encoder, x, k):
    one_code = torch.func.jacrev(lambda image: encoder(image[None])[0])
    jacobian = torch.func.vmap(one_code)(x).detach()
    values = torch.linalg.svd(jacobian, full_matrices=False)
    return values.Vh[:, :k]
"""
PCA_TANGENTS = """
def tangents(x, data, neighbours, k):
    near = torch.cdist(x, data).topk(neighbours, largest=False).indices
    cloud = data[near]
    cloud = cloud - cloud.mean(dim=1, keepdim=True)
    values = torch.linalg.svd(cloud, full_matrices=False)
    return values.Vh[:, :k]
"""
SPLIT = """
def split(vectors, tangents):
    basis = orthonormal_tangents(tangents)
    share = torch.einsum("bkp,bp->bk", basis, vectors)
    along = torch.einsum("bkp,bk->bp", basis, share)
    return along, vectors - along
"""
ANGLES = """
def angles(a, b):
    a, b = orthonormal_tangents(a), orthonormal_tangents(b)
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    cosine = torch.linalg.svdvals(a @ b.mT).clamp(max=1)
    sine = torch.linalg.svdvals(b - b @ a.mT @ a).flip(1).clamp(max=1)
    return torch.where(cosine**2 > 0.5, sine.asin(), cosine.acos())
"""
LOSS = """
def loss(model, x, y, tangents, strength):
    scores, slopes = model(x), []
    for direction in tangents.unbind(dim=1):
        slopes.append(torch.func.jvp(model, (x,), (direction,))[1])
    penalty = sum(slope.square().sum(dim=1) for slope in slopes)
    error = torch.nn.functional.cross_entropy(scores, y)
    return error + strength * penalty.mean()
"""


def edited(source, *changes):
    """The function in a source text, with the mistakes that pairs of old and new text make."""
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in source, old
        source = source.replace(old, new)
    scope = {"torch": torch, "math": math, "orthonormal_tangents": orthonormal_tangents}
    exec(source, scope)
    return scope[source.split("def ")[1].split("(")[0]]


# What students write by mistake: each must lose points.
MUTANTS = {
    "encoder_tangents": {
        "left singular vectors": edited(
            ENCODER, "values.Vh[:, :k]", "torch.nn.functional.pad(values.U.mT, (0, x.shape[1]))[:, :k, :x.shape[1]]"
        ),
        "the smallest, not the largest": edited(ENCODER, "values.Vh[:, :k]", "values.Vh[:, -k:]"),
        "smallest of them first": edited(ENCODER, "values.Vh[:, :k]", "values.Vh[:, :k].flip(1)"),
        "columns for rows": edited(ENCODER, "values.Vh[:, :k]", "values.Vh.mT[:, :k, : x.shape[1]]"),
        "rows of the Jacobian, only orthonormal": edited(
            ENCODER, "values.Vh[:, :k]", "torch.linalg.qr(jacobian.mT).Q.mT[:, :k]"
        ),
        "largest rows of the Jacobian": edited(
            ENCODER,
            "values.Vh[:, :k]",
            "torch.nn.functional.normalize(jacobian.gather(1, jacobian.norm(dim=2).topk(k).indices[..., None]"
            ".expand(-1, -1, x.shape[1])), dim=2)",
        ),
        "times the singular values": edited(ENCODER, "values.Vh[:, :k]", "(values.S[:, :k, None] * values.Vh[:, :k])"),
        "the first image's for all": edited(ENCODER, "values.Vh[:, :k]", "values.Vh[:1, :k].expand(len(x), -1, -1)"),
        "the mean Jacobian": edited(ENCODER, ".detach()", ".detach().mean(0, keepdim=True).expand(len(x), -1, -1)"),
        "one SVD of the whole batch": edited(
            ENCODER, "values.Vh[:, :k]", "torch.linalg.svd(jacobian.flatten(0, 1)).Vh[:k].expand(len(x), -1, -1)"
        ),
        "squared Jacobian": edited(ENCODER, ".detach()", ".detach().square()"),
        "at zero": edited(ENCODER, "vmap(one_code)(x)", "vmap(one_code)(torch.zeros_like(x))"),
        "summed over code units": edited(ENCODER, ".detach()", ".detach().cumsum(1)"),
        "the images marked for gradients": edited(ENCODER, "    one_code", "    x.requires_grad_()\n    one_code"),
        "a gradient left on it": edited(ENCODER, ".detach()", ""),
        "always float32": edited(ENCODER, "values.Vh[:, :k]", "values.Vh[:, :k].float()"),
    },
    "local_pca_tangents": {
        "not centred": edited(PCA_TANGENTS, "cloud = cloud - cloud.mean(dim=1, keepdim=True)", "pass"),
        "centred at the image": edited(PCA_TANGENTS, "cloud.mean(dim=1, keepdim=True)", "x[:, None]"),
        "centred at the mean of all data": edited(PCA_TANGENTS, "cloud.mean(dim=1, keepdim=True)", "data.mean(dim=0)"),
        "centred across pixels": edited(PCA_TANGENTS, "cloud.mean(dim=1,", "cloud.mean(dim=2,"),
        "PCA of all data": edited(PCA_TANGENTS, "cloud = data[near]", "cloud = data.expand(len(x), -1, -1)"),
        "the farthest": edited(PCA_TANGENTS, "largest=False", "largest=True"),
        "without the nearest": edited(
            PCA_TANGENTS,
            "topk(neighbours,",
            "topk(neighbours + 1,",
            "[near]",
            "[near[:, 1:]]",  # the image itself is one
        ),
        "one neighbour too few": edited(PCA_TANGENTS, "topk(neighbours,", "topk(neighbours - 1,"),
        "nearest to the first image": edited(PCA_TANGENTS, "cdist(x, data)", "cdist(x[:1].expand_as(x), data)"),
        "nearest by inner product": edited(
            PCA_TANGENTS, "torch.cdist(x, data).topk(neighbours, largest=False)", "(x @ data.T).topk(neighbours)"
        ),
        "nearest by absolute differences": edited(PCA_TANGENTS, "cdist(x, data)", "cdist(x, data, p=1)"),
        "nearest by the largest difference": edited(PCA_TANGENTS, "cdist(x, data)", "cdist(x, data, p=math.inf)"),
        "nearest by direction": edited(
            PCA_TANGENTS,
            "torch.cdist(x, data)",
            "torch.cdist(torch.nn.functional.normalize(x, dim=1), torch.nn.functional.normalize(data, dim=1))",
        ),
        "the image added to its neighbours": edited(
            PCA_TANGENTS, "cloud = data[near]", "cloud = torch.cat([data[near], x[:, None]], dim=1)"
        ),
        "centred at the median": edited(
            PCA_TANGENTS, "cloud.mean(dim=1, keepdim=True)", "cloud.median(dim=1, keepdim=True).values"
        ),
        "the smallest spread": edited(PCA_TANGENTS, "values.Vh[:, :k]", "values.Vh[:, -k:]"),
        "least of them first": edited(PCA_TANGENTS, "values.Vh[:, :k]", "values.Vh[:, :k].flip(1)"),
        "differences to the neighbours": edited(
            PCA_TANGENTS, "values.Vh[:, :k]", "torch.linalg.qr((data[near] - x[:, None])[:, -k:].mT).Q.mT"
        ),
        "times the spread": edited(PCA_TANGENTS, "values.Vh[:, :k]", "values.S[:, :k, None] * values.Vh[:, :k]"),
        "in place": edited(PCA_TANGENTS, "cloud = data[near]", "cloud = data[near]; data -= data.mean(0)"),
        "always float32": edited(PCA_TANGENTS, "values.Vh[:, :k]", "values.Vh[:, :k].float()"),
    },
    "tangent_split": {
        "across before along": edited(SPLIT, "return along, vectors - along", "return vectors - along, along"),
        "tangents as they are": edited(SPLIT, "orthonormal_tangents(tangents)", "tangents"),
        "only of length 1": edited(
            SPLIT, "orthonormal_tangents(tangents)", "torch.nn.functional.normalize(tangents, dim=2)"
        ),
        "QR, dependent or not": edited(SPLIT, "orthonormal_tangents(tangents)", "torch.linalg.qr(tangents.mT).Q.mT"),
        "first tangent only": edited(SPLIT, "orthonormal_tangents(tangents)", "orthonormal_tangents(tangents[:, :1])"),
        "the first image's plane for all": edited(
            SPLIT, "orthonormal_tangents(tangents)", "orthonormal_tangents(tangents)[:1].expand_as(tangents)"
        ),
        "the same part twice": edited(SPLIT, "return along, vectors - along", "return along, along"),
        "difference the wrong way round": edited(SPLIT, "vectors - along", "along - vectors"),
        "reflected": edited(SPLIT, "vectors - along", "vectors - 2 * along"),
        "lengths for vectors": edited(
            SPLIT, "return along, vectors - along", "return along.abs(), (vectors - along).abs()"
        ),
        "strong ridge": edited(
            SPLIT,
            "orthonormal_tangents(tangents)",
            "0.95 * orthonormal_tangents(tangents)",
        ),
        "detached": edited(SPLIT, "vectors - along", "(vectors - along).detach() + 0 * vectors"),
        "first part detached": edited(SPLIT, "basis, vectors)", "basis, vectors.detach())"),
        "short tangents dropped": edited(
            SPLIT,
            "orthonormal_tangents(tangents)",
            "orthonormal_tangents(tangents * (tangents.norm(dim=2, keepdim=True) > 1e-2))",
        ),
        "always float32": edited(
            SPLIT,
            "return along, vectors - along",
            "return along.float(), across.float()",
            "    return",
            "    across = vectors - along\n    return",
        ),
    },
    "principal_angles": {
        "arccosine alone": edited(ANGLES, "torch.where(cosine**2 > 0.5, sine.asin(), cosine.acos())", "cosine.acos()"),
        "arcsine alone": edited(ANGLES, "torch.where(cosine**2 > 0.5, sine.asin(), cosine.acos())", "sine.asin()"),
        "NaN by rounding": edited(
            ANGLES, ".clamp(max=1)", " * (1 + 1e-7)", "torch.where(cosine**2 > 0.5, sine.asin(), ", "("
        ),
        "sines in the other order": edited(ANGLES, ".flip(1)", ""),
        "largest first": edited(ANGLES, "cosine.acos())", "cosine.acos()).flip(1)"),
        "cosines": edited(ANGLES, "torch.where(cosine**2 > 0.5, sine.asin(), cosine.acos())", "cosine"),
        "degrees": edited(ANGLES, "cosine.acos())", "cosine.acos()).rad2deg()"),
        "rows not made orthonormal": edited(ANGLES, "a, b = orthonormal_tangents(a), orthonormal_tangents(b)", "pass"),
        "rows only of length 1": edited(
            ANGLES,
            "orthonormal_tangents(a), orthonormal_tangents(b)",
            "(torch.nn.functional.normalize(plane, dim=2) for plane in (a, b))",
        ),
        "row by row": edited(
            ANGLES, "torch.linalg.svdvals(a @ b.mT).clamp(max=1)", "(a[:, : b.shape[1]] * b).sum(2).abs().clamp(max=1)"
        ),
        "all rows of the first as many angles": edited(
            ANGLES,
            "    if a.shape[1] < b.shape[1]:\n        a, b = b, a\n",
            "",
            "torch.linalg.svdvals(a @ b.mT)",
            "torch.linalg.svdvals(b.mT @ b @ a.mT @ a)[:, : b.shape[1]]",
        ),
        "cosine squared": edited(ANGLES, "cosine.acos())", "(cosine**2).acos())"),
        "the smallest angle only": edited(
            ANGLES, "    return torch", "    sine, cosine = sine[:, :1], cosine[:, :1]\n    return torch"
        ),
        "always float32": edited(ANGLES, "cosine.acos())", "cosine.acos()).float()"),
    },
    "mtc_loss": {
        "no tangent penalty": edited(LOSS, "error + strength * penalty.mean()", "error"),
        "penalty alone": edited(LOSS, "error + strength * penalty.mean()", "strength * penalty.mean()"),
        "norm not squared": edited(LOSS, "slope.square().sum(dim=1)", "slope.norm(dim=1)"),
        "mean over classes": edited(LOSS, "slope.square().sum(dim=1)", "slope.square().mean(dim=1)"),
        "mean over tangents": edited(LOSS, "penalty.mean()", "penalty.mean() / tangents.shape[1]"),
        "sum over images": edited(LOSS, "penalty.mean()", "penalty.sum()"),
        "cross-entropy summed": edited(LOSS, "cross_entropy(scores, y)", "cross_entropy(scores, y, reduction='sum')"),
        "with a half": edited(LOSS, "strength * penalty", "strength / 2 * penalty"),
        "strength squared": edited(LOSS, "strength * penalty", "strength**2 * penalty"),
        "derivatives of probabilities": edited(
            LOSS, "torch.func.jvp(model, (x,)", "torch.func.jvp(lambda z: model(z).softmax(1), (x,)"
        ),
        "the first image's tangents for all": edited(LOSS, "(direction,)", "(direction[:1].expand_as(x),)"),
        "first tangent only": edited(LOSS, "tangents.unbind(dim=1)", "tangents.unbind(dim=1)[:1]"),
        "tangents rescaled to length 1": edited(
            LOSS, "(direction,)", "(torch.nn.functional.normalize(direction, dim=1),)"
        ),
        "tangents added up": edited(LOSS, "tangents.unbind(dim=1)", "[tangents.sum(dim=1)]"),
        "all directions": edited(
            LOSS,
            "penalty.mean()",
            "torch.func.vmap(torch.func.jacrev(lambda z: model(z[None])[0]))(x).square().sum((1, 2)).mean()",
        ),
        "a coarse step instead of the derivative": edited(
            LOSS, "torch.func.jvp(model, (x,), (direction,))[1]", "model(x + 0.1 * direction) / 0.1 - model(x) / 0.1"
        ),
        "detached": edited(LOSS, "penalty.mean()", "penalty.mean().detach()"),
        "cross-entropy detached": edited(LOSS, "cross_entropy(scores, y)", "cross_entropy(scores.detach(), y)"),
        "scores already softmaxed": edited(
            LOSS, "scores, slopes = model(x), []", "scores, slopes = model(x).softmax(1), []"
        ),
        "always float32": edited(
            LOSS, "return error + strength * penalty.mean()", "return (error + strength * penalty.mean()).float()"
        ),
    },
}


def encoder_tangents_by_gram(encoder, x, k):
    """Eigenvectors of the small Gram matrix, Jacobians by one backward pass a code unit."""
    x = x.detach().clone().requires_grad_()
    code = encoder(x)
    rows = [torch.autograd.grad(unit.sum(), x, retain_graph=True)[0] for unit in code.unbind(dim=1)]
    jacobian = torch.stack(rows, dim=1).double()  # (batch, code, pixel)
    right = torch.linalg.eigh(jacobian.mT @ jacobian).eigenvectors[:, :, -k:]
    return right.mT.flip(1).to(x.dtype)


def encoder_tangents_one_by_one(encoder, x, k):
    """A loop over images, with torch's older Jacobian, and a loop of deflations instead of an SVD."""
    found = []
    for image in x:
        jacobian = torch.autograd.functional.jacobian(lambda z: encoder(z[None])[0], image).detach().double()
        gram, rows = jacobian.T @ jacobian, []
        for _ in range(k):
            power = gram
            for _ in range(12):
                power = power @ power / (power @ power).norm()
            row = torch.nn.functional.normalize(power[power.norm(dim=1).argmax()], dim=0)
            gram = gram - (row @ gram @ row) * torch.outer(row, row)
            rows.append(row)
        found.append(torch.stack(rows))
    return torch.stack(found).to(x.dtype)


def pca_by_covariance(x, data, neighbours, k):
    """A loop over images: distances by hand, eigenvectors of the covariance."""
    found = []
    for image in x:
        order = (data - image).square().sum(dim=1).argsort()[:neighbours]
        right = torch.linalg.eigh(torch.cov(data[order].T)).eigenvectors
        found.append(right[:, -k:].T.flip(0))
    return torch.stack(found)


def pca_by_gram(x, data, neighbours, k):
    """The Gram matrix between neighbours, centred from both sides."""
    distance = x.square().sum(1)[:, None] - 2 * x @ data.T + data.square().sum(1)
    cloud = data[distance.topk(neighbours, largest=False, sorted=False).indices].double()
    centre = torch.eye(neighbours).to(cloud) - 1 / neighbours
    left = torch.linalg.eigh(centre @ cloud @ cloud.mT @ centre).eigenvectors[..., -k:].flip(2)
    return torch.nn.functional.normalize(left.mT @ centre @ cloud, dim=2).to(x.dtype)


def split_by_pinv(vectors, tangents):
    unit = torch.nn.functional.normalize(tangents, dim=2, eps=1e-30)
    along = (unit.mT @ (torch.linalg.pinv(unit.mT, rtol=1e-5) @ vectors[..., None]))[..., 0]
    return along, vectors - along


def split_by_gram_schmidt(vectors, tangents):
    """Each tangent, freed twice from those before it, takes its share away."""
    across, basis = vectors, []
    for tangent in torch.nn.functional.normalize(tangents, dim=2, eps=1e-30).unbind(dim=1):
        left = tangent
        for row in basis + basis:
            left = left - (row * left).sum(1, keepdim=True) * row
        length = left.norm(dim=1, keepdim=True)
        row = torch.where(length > 1e-4, left / length.clamp(min=1e-4), 0.0)
        across = across - (row * across).sum(1, keepdim=True) * row
        basis.append(row)
    return vectors - across, across


def angles_by_chords(a, b):
    """Principal vectors in double precision and the chord between them: 2·asin(‖u − v‖/2), one pair a time."""
    found = []
    for first, second in zip(a.double(), b.double(), strict=True):
        p, q = torch.linalg.qr(first.T).Q, torch.linalg.qr(second.T).Q
        if p.shape[1] < q.shape[1]:
            p, q = q, p
        across = q - p @ (p.T @ q)
        sine, turn = torch.linalg.eigh(across.T @ across)
        v = q @ turn
        u = torch.nn.functional.normalize(p @ (p.T @ v), dim=0)
        angle = 2 * torch.asin(((u - v).norm(dim=0) / 2).clamp(max=1))
        overlap = (p.T @ v).norm(dim=0).clamp(max=1)
        found.append(torch.where(overlap < 0.5, overlap.acos(), angle).sort().values)
    return torch.stack(found).to(a.dtype)


def angles_without_exchange(a, b):
    """The plane with more rows may stay second: its surplus sines are 1, the largest."""
    p, q = (torch.linalg.qr(plane.mT).Q for plane in (a, b))
    fewest = min(p.shape[2], q.shape[2])
    sine = torch.linalg.svdvals(q - p @ (p.mT @ q)).flip(1)[:, :fewest]
    return torch.atan2(sine, torch.linalg.svdvals(p.mT @ q))


def angles_by_arctangent(a, b):
    """Orthonormal bases by QR, and one formula for small and large angles."""
    p, q = (torch.linalg.qr(plane.mT).Q for plane in (a, b))
    if p.shape[2] < q.shape[2]:
        p, q = q, p
    overlap = p.mT @ q
    sine = torch.linalg.svdvals(q - p @ overlap).flip(1)
    return torch.atan2(sine, torch.linalg.svdvals(overlap))


def loss_by_double_backward(model, x, y, tangents, strength):
    """The whole Jacobian, one class at a time, by reverse mode that can be differentiated again."""
    x = x.detach().clone().requires_grad_()
    scores = model(x)
    rows = [torch.autograd.grad(score.sum(), x, create_graph=True)[0] for score in scores.unbind(dim=1)]
    slopes = torch.einsum("bcp,btp->bct", torch.stack(rows, dim=1), tangents)
    error = -scores.log_softmax(dim=1)[torch.arange(len(y)), y].mean()
    return error + strength * slopes.square().sum() / len(y)


def loss_image_by_image(model, x, y, tangents, strength):
    """A loop over images, the Jacobian by forward mode."""
    total = 0.0
    for image, label, plane in zip(x, y, tangents, strict=True):
        jacobian = torch.func.jacfwd(lambda z: model(z[None])[0])(image)
        error = torch.nn.functional.cross_entropy(model(image[None]), label[None])
        total = total + error + strength * (jacobian @ plane.T).square().sum()
    return total / len(x)


# Right by another way: each must keep every point.
ALTERNATIVES = {
    "encoder_tangents": {
        "backward passes and a Gram matrix": encoder_tangents_by_gram,
        "a loop of power iterations": encoder_tangents_one_by_one,
    },
    "local_pca_tangents": {"a loop of covariances": pca_by_covariance, "Gram matrix of neighbours": pca_by_gram},
    "tangent_split": {"pseudo-inverse": split_by_pinv, "Gram–Schmidt": split_by_gram_schmidt},
    "principal_angles": {
        "sines and cosines": edited(ANGLES),
        "chords in double precision": angles_by_chords,
        "arctangent": angles_by_arctangent,
        "without exchange": angles_without_exchange,
    },
    "mtc_loss": {
        "a loop of jvp": edited(LOSS),
        "double backward": loss_by_double_backward,
        "image by image": loss_image_by_image,
    },
}


# --- independent peers and closed forms ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def some():
    """Forty real digits in float64, all pixels in one row."""
    return digits().train.x[:40].flatten(1).double()


def sigmoid_encoder(pixels=64, code=20):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(pixels, code), torch.nn.Sigmoid()).double()


def test_tangents_of_a_linear_encoder_are_those_of_its_matrix(some):
    weight = sigmoid_encoder()[0].weight.detach()
    wanted = torch.linalg.svd(weight).Vh[:5].expand(40, -1, -1)
    found = library.encoder_tangents(lambda x: x @ weight.T, some, 5)
    torch.testing.assert_close(torch.einsum("bkp,bkp->bk", found, wanted).abs(), torch.ones(40, 5).double())


def test_tangents_of_a_sigmoid_layer_have_a_closed_form(some):
    """J = diag(h(1 − h))·W, so the tangents are eigenvectors of Wᵀ·diag(h(1 − h))²·W."""
    encoder = sigmoid_encoder()
    h = encoder(some).detach()
    scaled = (h * (1 - h))[:, :, None] * encoder[0].weight.detach()
    wanted = torch.linalg.eigh(scaled.mT @ scaled).eigenvectors[:, :, -4:].mT.flip(1)
    found = library.encoder_tangents(encoder, some, 4)
    torch.testing.assert_close(torch.einsum("bkp,bkp->bk", found, wanted).abs(), torch.ones(40, 4).double())


def test_no_direction_moves_the_code_more_than_the_first_tangent(some):
    encoder = sigmoid_encoder()
    first = library.encoder_tangents(encoder, some, 1)[:, 0]

    def speed(direction):
        return torch.func.jvp(encoder, (some,), (direction,))[1].norm(dim=1)

    torch.manual_seed(1)
    for _ in range(50):
        other = torch.nn.functional.normalize(torch.randn_like(some) + first, dim=1)
        assert (speed(other) <= speed(first) + 1e-12).all()


def test_local_pca_agrees_with_scikit_learn(some):
    torch.manual_seed(0)
    data = digits().train.x.flatten(1).double()
    data += 1e-4 * torch.rand_like(data)  # sixteenths are often equally far
    found = library.local_pca_tangents(some, data, 20, 6)
    near = NearestNeighbors(n_neighbors=20).fit(data.numpy()).kneighbors(some.numpy(), return_distance=False)
    for tangents, places in zip(found, near, strict=True):
        theirs = torch.tensor(PCA(6).fit(data[places].numpy()).components_)
        torch.testing.assert_close((tangents * theirs).sum(1).abs(), torch.ones(6).double())


def test_local_pca_finds_the_plane_on_which_the_data_lie():
    """Toy data on a sphere: at the pole the tangents are the first two axes."""
    torch.manual_seed(0)
    flat = 0.1 * torch.randn(400, 2, dtype=torch.float64)
    data = torch.cat([flat, (1 - flat.square().sum(1, keepdim=True)).sqrt()], dim=1)
    found = library.local_pca_tangents(torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64), data, 40, 2)
    assert found[0, :, 2].abs().max() < 0.05


def test_split_is_an_orthogonal_projection(some):
    tangents = tangent_vectors(some.view(-1, 1, 8, 8), 0.7).flatten(2)
    along, across = library.tangent_split(some, tangents)
    torch.testing.assert_close(along + across, some)
    torch.testing.assert_close(along.square().sum(1) + across.square().sum(1), some.square().sum(1))
    assert torch.einsum("bp,bkp->bk", across, tangents).abs().max() < 1e-9
    torch.testing.assert_close(library.tangent_split(along, tangents)[0], along)
    random = torch.linalg.qr(torch.randn(40, 7, 7, dtype=torch.float64)).Q
    torch.testing.assert_close(library.tangent_split(some, random @ tangents)[0], along)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shapes", [(3, 5), (5, 3), (4, 4), (1, 1)])
def test_angles_agree_with_scipy(dtype, shapes):
    torch.manual_seed(0)
    a, b = (torch.randn(6, rows, 9, dtype=torch.float64) for rows in shapes)
    a[0, 0] = b[0, 0]  # a shared direction
    a[1, 0] = b[1, 0] + 1e-4 * torch.randn(9, dtype=torch.float64)
    found = library.principal_angles(a.to(dtype), b.to(dtype))
    theirs = [torch.tensor(subspace_angles(p.T.numpy(), q.T.numpy())) for p, q in zip(a, b, strict=True)]
    theirs = torch.stack(theirs).sort().values  # SciPy loses angles below about 1e-8
    exact = 1e-7 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(found.double(), theirs, atol=exact, rtol=exact)
    torch.testing.assert_close(found, library.principal_angles(b.to(dtype), a.to(dtype)), atol=1e-5, rtol=1e-5)


def test_a_missing_dimension_is_a_right_angle():
    floor = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    tilted = torch.tensor([[[math.cos(1e-3), 0.0, math.sin(1e-3)], [0.0, 0.0, 0.0]]])
    for pair in ((floor, tilted), (tilted, floor)):
        torch.testing.assert_close(library.principal_angles(*pair), torch.tensor([[1e-3, math.pi / 2]]))
    assert library.principal_angles(floor, torch.zeros(1, 1, 3)).item() == pytest.approx(math.pi / 2)


def test_the_loss_at_strength_zero_is_torchs_cross_entropy(some):
    model = sigmoid_encoder()
    y = torch.arange(40) % 10
    found = library.mtc_loss(model, some, y, torch.randn(40, 3, 64).double(), 0.0)
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(model(some), y))


def test_the_penalty_sees_the_plane_and_not_its_basis(some):
    """Any other orthonormal basis gives the same loss; all pixels together give the squared Jacobian norm."""
    model, y = sigmoid_encoder(), torch.arange(40) % 10
    tangents = library.random_tangents(40, 4, 64).double()
    turn = torch.linalg.qr(torch.randn(40, 4, 4, dtype=torch.float64)).Q
    losses = [library.mtc_loss(model, some, y, plane, 0.7) for plane in (tangents, turn @ tangents)]
    torch.testing.assert_close(*losses)
    h = model(some)
    whole = ((h * (1 - h)).square() @ model[0].weight.square().sum(1)).mean()
    everything = torch.eye(64).double().expand(40, -1, -1)
    found = library.mtc_loss(model, some, y, everything, 1.0) - torch.nn.functional.cross_entropy(h, y)
    torch.testing.assert_close(found, whole)


def test_gradients():
    torch.manual_seed(0)
    x, y = torch.randn(3, 6, dtype=torch.float64), torch.tensor([0, 2, 1])
    tangents = torch.randn(3, 2, 6, dtype=torch.float64)

    def loss(weight, bias):
        return library.mtc_loss(lambda x: torch.tanh(x @ weight.T + bias), x, y, tangents, 0.5)

    parameters = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 6), (4,))]
    assert torch.autograd.gradcheck(loss, parameters)
    vectors = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: library.tangent_split(v, tangents), vectors)


def test_captured_share():
    """Of a random direction a plane captures k/pixel on average; of its own tangents all."""
    planes = library.random_tangents(2000, 6, 20)
    directions = torch.randn(2000, 1, 20, generator=torch.Generator().manual_seed(1))
    assert library.captured_share(directions, planes).mean() == pytest.approx(6 / 20, abs=0.01)
    torch.testing.assert_close(library.captured_share(3 * planes, planes), torch.ones(2000, 6))
    angles = library.principal_angles(directions, planes)
    torch.testing.assert_close(library.captured_share(directions, planes), angles.cos().square(), atol=1e-4, rtol=1e-4)


def test_random_tangents_are_orthonormal_and_uniform():
    planes = library.random_tangents(4000, 3, 5, seed=3)
    torch.testing.assert_close(planes @ planes.mT, torch.eye(3).expand(4000, -1, -1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((planes.mT @ planes).mean(0), 0.6 * torch.eye(5), atol=0.03, rtol=0)
    torch.testing.assert_close(planes, library.random_tangents(4000, 3, 5, seed=3))


# --- every device that is here -------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_cuda(some):
    encoder, there = sigmoid_encoder(), some[:5].cuda()
    plane = library.local_pca_tangents(there, some.cuda(), 8, 3)
    for found in (
        plane,
        library.encoder_tangents(encoder.cuda(), there, 3),
        *library.tangent_split(there, plane),
        library.principal_angles(plane, plane.flip(0)),
        library.mtc_loss(encoder, there, torch.zeros(5, dtype=torch.int64).cuda(), plane, 0.1),
        library.captured_share(plane, plane.flip(0)),
    ):
        assert found.device.type == "cuda" and found.dtype == torch.float64


# --- bad input -----------------------------------------------------------------------------------------------------

X, Y, T = torch.rand(3, 8), torch.tensor([0, 1, 2]), torch.rand(3, 2, 8)


def model(x):
    return x[:, :4]


BAD = {
    "integer images": (lambda: library.encoder_tangents(model, X.long(), 2), "x must be floating point"),
    "NaN images": (lambda: library.encoder_tangents(model, X * torch.nan, 2), "x must be finite"),
    "no batch axis": (lambda: library.encoder_tangents(model, X[0], 2), "2 dimensions, got"),
    "images not in a row": (lambda: library.encoder_tangents(model, X[:, None], 2), "2 dimensions, got"),
    "empty batch": (lambda: library.encoder_tangents(model, X[:0], 2), "at least 1 of each"),
    "more tangents than code": (lambda: library.encoder_tangents(model, X, 5), "from 1 to 4, got 5"),
    "no tangents": (lambda: library.encoder_tangents(model, X, 0), "from 1 to 4, got 0"),
    "half a tangent": (lambda: library.encoder_tangents(model, X, 1.5), r"int\(...\)"),
    "other pixels": (lambda: library.local_pca_tangents(X, X[:, :7], 3, 1), "data must have the sizes"),
    "other dtype": (lambda: library.local_pca_tangents(X, X.double(), 3, 1), "data must be of the kind of x"),
    "no data": (lambda: library.local_pca_tangents(X, X[:0], 3, 1), "at least 1 of each"),
    "NaN data": (lambda: library.local_pca_tangents(X, X * torch.nan, 3, 1), "data must be finite"),
    "too many neighbours": (lambda: library.local_pca_tangents(X, X, 4, 1), "from 2 to 3, got 4"),
    "one neighbour": (lambda: library.local_pca_tangents(X, X, 1, 1), "from 2 to 3, got 1"),
    "too many directions": (lambda: library.local_pca_tangents(X, X, 3, 3), "from 1 to 2, got 3"),
    "split, other batch": (lambda: library.tangent_split(X, T[:2]), "tangents must have the sizes"),
    "split, one tangent without its axis": (lambda: library.tangent_split(X, T[:, 0]), "3 dimensions, got"),
    "split, too many": (lambda: library.tangent_split(X[:, :1], T[:, :, :1]), "an integer from 1 to 1, got 2"),
    "split, integers": (lambda: library.tangent_split(X.long(), T), "floating point"),
    "angles, other pixels": (lambda: library.principal_angles(T, T[..., :7]), "b must have the sizes"),
    "angles, other batch": (lambda: library.principal_angles(T, T[:1]), "b must have the sizes"),
    "angles, other dtype": (lambda: library.principal_angles(T, T.double()), "b must be of the kind of a"),
    "angles, NaN": (lambda: library.principal_angles(T, T * torch.nan), "b must be finite"),
    "angles, nothing": (lambda: library.principal_angles(T[:0], T[:0]), "at least 1 of each"),
    "loss, no labels": (lambda: library.mtc_loss(model, X, Y[:2], T, 0.1), "y must have the sizes"),
    "loss, float labels": (lambda: library.mtc_loss(model, X, Y.float(), T, 0.1), "y must be indices"),
    "loss, a class too many": (lambda: library.mtc_loss(model, X, Y + 2, T, 0.1), "1 entry out of range"),
    "loss, tangents of others": (lambda: library.mtc_loss(model, X, Y, T[:2], 0.1), "tangents must have the sizes"),
    "loss, tangents as images": (lambda: library.mtc_loss(model, X, Y, T[:, 0], 0.1), "3 dimensions, got"),
    "loss, other dtype": (lambda: library.mtc_loss(model, X, Y, T.double(), 0.1), "tangents must be of the kind of x"),
    "loss, NaN": (lambda: library.mtc_loss(model, X, Y, T * torch.nan, 0.1), "tangents must be finite"),
    "loss, empty": (lambda: library.mtc_loss(model, X[:0], Y[:0], T[:0], 0.1), "at least 1 of each"),
    "negative strength": (lambda: library.mtc_loss(model, X, Y, T, -1.0), "strength must be non-negative"),
    "share of nothing": (lambda: library.captured_share(0 * T, T), "6 of length 0"),
    "share, other pixels": (lambda: library.captured_share(T[..., :7], T), "tangents must have the sizes"),
    "more random directions than pixels": (lambda: library.random_tangents(2, 9, 8), "from 1 to 8, got 9"),
    "no planes": (lambda: library.random_tangents(0, 2, 8), "batch must be in range"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
