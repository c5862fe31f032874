"""scikit-learn estimators on scikit-learn's own data sets, a line a case."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.compose import ColumnTransformer
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import (
    ARDRegression,
    BayesianRidge,
    ElasticNet,
    GammaRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    Perceptron,
    PoissonRegressor,
    QuantileRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.mixture import GaussianMixture
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, RadiusNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR, NuSVC, NuSVR, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

Array = np.ndarray[Any, Any]


@functools.cache
def data(name: str) -> tuple[Array, Array]:
    """A data set's features, float32, and its targets; with suffix ``_words`` the classes are strings.

    ``iris_holes`` lacks a tenth of the features (NaN), ``iris_small`` holds whole numbers from 0 to 7, ``iris_levels``
    words.
    """
    base, _, variant = name.partition("_")
    if base == "cancer":
        base = "breast_cancer"
    loaded = getattr(datasets, f"load_{base}")()
    x, y = loaded.data.astype(np.float32), loaded.target
    if variant == "words":
        y = np.array([f"class {c}" for c in y])
    elif variant == "holes":
        x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    elif variant == "small":
        x = x.astype(np.int64)
    elif variant == "levels":
        x = np.array(["short", "usual", "long", "very long"], object)[(x / x.max(0) * 3.99).astype(int)]
    return x, y


def _scaled(estimator: Any) -> Any:
    return make_pipeline(StandardScaler(), estimator)


def _mixed(estimator: Any) -> Any:
    """Some columns scaled, some binned, one as it is."""
    columns = [
        ("scaled", StandardScaler(), [0, 2]),
        ("binned", KBinsDiscretizer(3, encode="onehot-dense", quantile_method="averaged_inverted_cdf"), [1]),
        ("kept", "passthrough", [3]),
    ]
    return make_pipeline(ColumnTransformer(columns), estimator)


def _union(estimator: Any) -> Any:
    parts = [("pca", PCA(3)), ("best", SelectKBest(k=4)), ("scaled", MinMaxScaler())]
    return make_pipeline(FeatureUnion(parts), estimator)


def _voters() -> list[tuple[str, Any]]:
    return [
        ("tree", DecisionTreeClassifier(max_depth=3)),
        ("line", _scaled(LogisticRegression())),
        ("nb", GaussianNB()),
    ]


CASES: dict[str, tuple[str, Callable[[], Any]]] = {
    # trees
    "tree": ("iris", lambda: DecisionTreeClassifier(random_state=0)),
    "tree_words": ("wine_words", lambda: DecisionTreeClassifier(random_state=0)),
    "tree_regressor": ("diabetes", lambda: DecisionTreeRegressor(random_state=0)),
    "forest": ("digits", lambda: RandomForestClassifier(10, random_state=0)),
    "forest_two": ("cancer", lambda: RandomForestClassifier(10, random_state=0)),
    "forest_words": ("iris_words", lambda: RandomForestClassifier(5, random_state=0)),
    "forest_regressor": ("diabetes", lambda: RandomForestRegressor(10, random_state=0)),
    "extra_trees": ("wine", lambda: ExtraTreesClassifier(10, random_state=0)),
    "extra_trees_regressor": ("diabetes", lambda: ExtraTreesRegressor(5, random_state=0)),
    "boosting": ("iris", lambda: GradientBoostingClassifier(n_estimators=10, random_state=0)),
    "boosting_two": ("cancer", lambda: GradientBoostingClassifier(n_estimators=20, random_state=0)),
    "boosting_regressor": ("diabetes", lambda: GradientBoostingRegressor(n_estimators=20, random_state=0)),
    "histograms": ("iris", lambda: HistGradientBoostingClassifier(max_iter=10)),
    "histograms_two": ("cancer", lambda: HistGradientBoostingClassifier(max_iter=10)),
    "histograms_holes": ("iris_holes", lambda: HistGradientBoostingClassifier(max_iter=10)),
    "histograms_regressor": ("diabetes", lambda: HistGradientBoostingRegressor(max_iter=10)),
    "adaboost": ("iris", lambda: AdaBoostClassifier(n_estimators=5, random_state=0)),
    "adaboost_regressor": ("diabetes", lambda: AdaBoostRegressor(n_estimators=5, random_state=0)),
    "bagging": ("iris", lambda: BaggingClassifier(n_estimators=4, random_state=0)),
    "bagging_regressor": ("diabetes", lambda: BaggingRegressor(n_estimators=4, random_state=0)),
    "isolation": ("iris", lambda: IsolationForest(n_estimators=10, random_state=0)),
    # lines
    "linear": ("diabetes", LinearRegression),
    "ridge": ("diabetes", Ridge),
    "lasso": ("diabetes", lambda: Lasso(0.1)),
    "elastic": ("diabetes", lambda: ElasticNet(0.1)),
    "bayesian_ridge": ("diabetes", BayesianRidge),
    "ard": ("diabetes", ARDRegression),
    "quantile": ("diabetes", lambda: QuantileRegressor(alpha=0.1)),
    "poisson": ("diabetes", PoissonRegressor),
    "gamma": ("diabetes", GammaRegressor),
    "pls": ("diabetes", lambda: PLSRegression(2)),
    "many_targets": ("linnerud", lambda: MultiOutputRegressor(Ridge())),
    "logistic": ("iris", lambda: _scaled(LogisticRegression())),
    "logistic_two": ("cancer", lambda: _scaled(LogisticRegression())),
    "logistic_words": ("wine_words", lambda: _scaled(LogisticRegression())),
    "logistic_digits": ("digits", lambda: LogisticRegression(max_iter=50, tol=0.1)),
    "ridge_classifier": ("iris", RidgeClassifier),
    "sgd": ("iris", lambda: _scaled(SGDClassifier(loss="log_loss", random_state=0))),
    "perceptron": ("iris", lambda: _scaled(Perceptron(random_state=0))),
    "lda": ("wine", LinearDiscriminantAnalysis),
    "qda": ("iris", QuadraticDiscriminantAnalysis),
    "one_vs_rest": ("iris", lambda: OneVsRestClassifier(LogisticRegression())),
    "one_vs_one": ("iris", lambda: OneVsOneClassifier(LogisticRegression())),
    # support vectors
    "svc_rbf": ("iris", SVC),
    "svc_linear": ("iris", lambda: SVC(kernel="linear")),
    "svc_poly": ("iris", lambda: SVC(kernel="poly", degree=2, coef0=0.5)),
    "svc_sigmoid": ("iris", lambda: _scaled(SVC(kernel="sigmoid", coef0=0.1))),
    "svc_two": ("cancer", lambda: _scaled(SVC())),
    "svc_words": ("wine_words", lambda: _scaled(SVC())),
    "svc_digits": ("digits", SVC),
    "svc_probability": ("wine", lambda: _scaled(SVC(probability=True, random_state=0))),
    "svc_probability_two": ("cancer", lambda: _scaled(SVC(probability=True, random_state=0))),
    "svc_probability_digits": ("digits", lambda: SVC(probability=True, random_state=0)),
    "svc_calibrated": ("iris", lambda: CalibratedClassifierCV(SVC(), ensemble=False, cv=3)),
    "nu_svc": ("iris", NuSVC),
    "svr_rbf": ("diabetes", lambda: SVR(C=100)),
    "svr_linear": ("diabetes", lambda: SVR(kernel="linear", C=100)),
    "svr_poly": ("diabetes", lambda: _scaled(SVR(kernel="poly", C=10))),
    "svr_sigmoid": ("diabetes", lambda: _scaled(SVR(kernel="sigmoid"))),
    "nu_svr": ("diabetes", NuSVR),
    "one_class": ("iris", lambda: OneClassSVM(nu=0.3)),
    "linear_svc": ("iris", lambda: LinearSVC(random_state=0)),
    "linear_svc_two": ("cancer", lambda: LinearSVC(random_state=0)),
    "linear_svr": ("diabetes", lambda: LinearSVR(random_state=0)),
    # neighbours, probabilities, networks
    "neighbours": ("iris", lambda: KNeighborsClassifier(3)),
    "neighbours_regressor": ("diabetes", lambda: KNeighborsRegressor(5, weights="distance")),
    "radius": ("diabetes", lambda: RadiusNeighborsRegressor(1.0)),
    "gaussian_nb": ("wine", GaussianNB),
    "multinomial_nb": ("digits", MultinomialNB),
    "complement_nb": ("digits", lambda: make_pipeline(MinMaxScaler(), ComplementNB())),
    "bernoulli_nb": ("digits", lambda: BernoulliNB(binarize=8.0)),
    "mlp": ("iris", lambda: _scaled(MLPClassifier((16, 8), max_iter=50, random_state=0))),
    "mlp_two": ("cancer", lambda: _scaled(MLPClassifier((8,), activation="tanh", max_iter=50, random_state=0))),
    "mlp_regressor": ("diabetes", lambda: MLPRegressor(hidden_layer_sizes=(8,), activation="logistic", max_iter=50)),
    "gaussian_process": ("diabetes", lambda: GaussianProcessRegressor(alpha=0.1)),
    "kmeans": ("iris", lambda: KMeans(3, random_state=0, n_init=1)),
    "kmeans_batches": ("iris", lambda: MiniBatchKMeans(3, random_state=0, n_init=1)),
    "mixture": ("iris", lambda: GaussianMixture(3, random_state=0)),
    # features
    "standard": ("iris", StandardScaler),
    "min_max": ("iris", lambda: MinMaxScaler(clip=True)),
    "max_abs": ("iris", MaxAbsScaler),
    "robust": ("iris", RobustScaler),
    "normalizer_l1": ("iris", lambda: Normalizer("l1")),
    "normalizer_l2": ("iris", lambda: Normalizer("l2")),
    "normalizer_max": ("iris", lambda: Normalizer("max")),
    "binarizer": ("iris", lambda: Binarizer(threshold=2.0)),
    "bins": ("iris", lambda: KBinsDiscretizer(4, encode="ordinal", quantile_method="averaged_inverted_cdf")),
    "polynomial": ("iris", lambda: PolynomialFeatures(2)),
    "power": ("iris", PowerTransformer),
    "quantiles": ("iris", lambda: QuantileTransformer(n_quantiles=20)),
    "mean_imputer": ("iris_holes", SimpleImputer),
    "constant_imputer": ("iris_holes", lambda: SimpleImputer(strategy="constant", fill_value=7.0)),
    "neighbours_imputer": ("iris_holes", lambda: KNNImputer(n_neighbors=3)),
    "one_hot_numbers": ("iris_small", lambda: OneHotEncoder(handle_unknown="ignore", sparse_output=False)),
    "one_hot_words": ("iris_levels", lambda: OneHotEncoder(sparse_output=False)),
    "ordinal_numbers": ("iris_small", OrdinalEncoder),
    "ordinal_words": ("iris_levels", OrdinalEncoder),
    "pca": ("digits", lambda: PCA(8)),
    "whitened": ("iris", lambda: PCA(2, whiten=True)),
    "incremental_pca": ("iris", lambda: IncrementalPCA(2)),
    "svd": ("digits", lambda: TruncatedSVD(5, random_state=0)),
    "variance": ("digits", lambda: VarianceThreshold(1.0)),
    "best": ("cancer", lambda: SelectKBest(k=5)),
    # pipelines
    "columns": ("iris", lambda: _mixed(LogisticRegression())),
    "union": ("wine", lambda: _union(RandomForestClassifier(5, random_state=0))),
    "imputed": ("iris_holes", lambda: make_pipeline(SimpleImputer(), StandardScaler(), SVC())),
    "reduced": ("digits", lambda: make_pipeline(PCA(16), KNeighborsClassifier(3))),
    "words_in": ("iris_levels", lambda: make_pipeline(OneHotEncoder(), LogisticRegression())),
    "numbers_in": ("iris_small", lambda: make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression())),
    "voting": ("iris", lambda: VotingClassifier(_voters(), voting="soft", flatten_transform=False)),
    "hard_voting": ("iris", lambda: VotingClassifier(_voters(), flatten_transform=False)),
    "voting_regressor": ("diabetes", lambda:
        VotingRegressor([("a", Ridge()), ("b", DecisionTreeRegressor(max_depth=3))])),
    "stacking": ("iris", lambda: StackingClassifier(_voters()[:2], LogisticRegression(), cv=2)),
}  # fmt: skip

USUAL = ("forest_words", "boosting_two", "logistic_two", "svc_poly", "svc_probability", "svr_rbf", "neighbours",
         "ordinal_words", "columns", "numbers_in")  # fmt: skip
"""Cases that run by default; the others are marked slow."""

EXPORT_FAILS = ("histograms", "histograms_two", "histograms_holes", "histograms_regressor")
"""skl2onnx 1.20 gives NumPy's bools as an attribute of integers, which protobuf refuses."""

NOT_COMPILED = {"neighbours_imputer": "branches' results differ in rank"}
"""Whether a column lacks something decides its rank inside the exported graph; no program has a result of two ranks."""
