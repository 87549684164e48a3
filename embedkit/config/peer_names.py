"""What other trainers call our settings, losses and methods: one table, read by `--x`, by ``x=`` and by "did you mean".

The names are those of sentence-transformers and the Trainer of transformers, open_clip, FlagEmbedding, tevatron, peft
and lightly. They are compared without case, ``-``, ``_`` and ``.``.

Examples
--------
>>> from embedkit.config.peer_names import ours
>>> ours("per_device_train_batch_size"), ours("MultipleNegativesRankingLoss"), ours("no such name")
(('train.batch_size',), ('infonce',), ())
"""

from __future__ import annotations

_SETTINGS = {
    "train.lr": "learning_rate",
    "train.batch_size": "per_device_train_batch_size train_batch_size per_gpu_train_batch_size bs",
    "train.epochs": "num_train_epochs num_epochs n_epochs",
    "train.max_steps": "num_train_steps training_steps total_steps steps num_steps",
    "train.output": "output_dir output_path model_output_path save_dir out",
    "train.warmup": "warmup_ratio warmup_steps num_warmup_steps warmup_proportion",
    "train.weight_decay": "wd",
    "train.schedule": "lr_scheduler_type lr_scheduler scheduler",
    "train.wise_ft": "wiseft_alpha wise_ft_alpha",
    "train.holdout": "test_size validation_split validation_split_percentage eval_split",
    "train.precision": "amp dtype torch_dtype mixed_precision",
    "train.chunk_size": "mini_batch_size sub_batch_size gc_q_chunk_size gc_p_chunk_size",
    "train.gradient_checkpointing": "grad_checkpointing",
    "train.max_grad_norm": "clip grad_clip_norm gradient_clip_val",
    "train.compile": "torch_compile torchcompile",
    "train.log_every": "logging_steps log_every_n_steps",
    "train.save_every": "save_steps save_frequency checkpoint_save_steps",
    "train.keep_checkpoints": "save_total_limit checkpoint_save_total_limit",
    "train.trackers": "report_to",
    "seed": "random_seed",
    "evaluation.every": "eval_steps evaluation_steps",
    "evaluation.patience": "early_stopping_patience",
    "evaluation.metric": "metric_for_best_model",
    "evaluation.load_best": "load_best_model_at_end",
    "evaluation.data": "val_data eval_data eval_dataset dev_data validation_data",
    "data.train": "train_data train_file train_dataset dataset dataset_name dataset_path train_path training_file "
    "files train_csv",
    "data.train.0.columns": "columns column_mapping column_names",
    "data.train.0.limit": "limit max_samples max_train_samples",
    "data.sampler": "batch_sampler",
    "data.workers": "dataloader_num_workers num_workers",
    "data.drop_last": "dataloader_drop_last",
    "model.name": "model_name_or_path model_name model_path base_model pretrained pretrained_model_name_or_path",
    "model.tokenizer": "tokenizer_name tokenizer_name_or_path",
    "model.max_length": "max_seq_length max_seq_len max_len query_max_len passage_max_len q_max_len p_max_len",
    "model.pooling": "pooling_mode pooling_method sentence_pooling_method pooler",
    "model.normalize": "normalize_embeddings normlized",
    "model.lora.rank": "lora_r lora_rank",
    "model.lora.alpha": "lora_alpha",
    "model.lora.dropout": "lora_dropout",
    "model.lora.targets": "lora_target_modules target_modules",
    "objective": "loss loss_fn criterion",
    "objective.temperature": "temperature temp tau",
}
_PARTS = {
    "infonce": "MultipleNegativesRankingLoss CachedMultipleNegativesRankingLoss MNRL MNRLoss InBatchNegatives "
    "ContrastiveLossInBatch",
    "cosent": "CoSENTLoss",
    "angle": "AnglELoss",
    "cosine-mse": "CosineSimilarityLoss",
    "margin-mse": "MarginMSELoss",
    "distill-kl": "DistillKLDivLoss",
    "embedding-mse": "MSELoss",
    "contrastive": "ContrastiveLoss",
    "online-contrastive": "OnlineContrastiveLoss",
    "triplet": "TripletLoss TripletMarginLoss",
    "batch-all-triplet": "BatchAllTripletLoss",
    "batch-hard-triplet": "BatchHardTripletLoss",
    "semi-hard-triplet": "BatchSemiHardTripletLoss",
    "soft-margin-triplet": "BatchHardSoftMarginTripletLoss",
    "gist": "GISTEmbedLoss CachedGISTEmbedLoss",
    "multi-similarity": "MultiSimilarityLoss",
    "circle": "CircleLoss",
    "matryoshka": "MatryoshkaLoss MRL",
    "supcon": "SupConLoss SupervisedContrastive SupervisedContrastiveLoss",
    "ntxent": "NTXentLoss nt-x-ent",
    "siglip": "SigLipLoss SigmoidLoss",
    "clip": "ClipLoss MultipleNegativesSymmetricRankingLoss CachedMultipleNegativesSymmetricRankingLoss",
    "barlow-twins": "BarlowTwinsLoss",
    "vicreg": "VICRegLoss",
    "dcl": "DCLLoss",
    "dclw": "DCLWLoss",
    "swav": "SwaVLoss",
    "simsiam": "NegativeCosineSimilarity",
    "simcse-unsup": "simcse unsup_simcse simcse_unsupervised",
    "simcse-sup": "simcse sup_simcse simcse_supervised nli",
    "promptbert-unsup": "promptbert",
    "promptbert-sup": "promptbert",
    "pairs": "bi_encoder biencoder dpr faq retrieval triplets question_answer",
    "scored-pairs": "sts stsb similarity scored",
    "clip-small": "captions",
    "clip-finetune": "captions finetune_clip",
    "eval": "evaluate evaluation benchmark test",
    "encode": "embed inference predict",
    "train": "fit finetune fine-tune",
    "no-duplicates": "NoDuplicatesBatchSampler",
    "by-label": "GroupByLabelBatchSampler MPerClassSampler",
    "bf16": "bfloat16",
    "fp16": "float16 half",
    "linear": "linear_with_warmup warmuplinear",
    "cosine": "cosine_with_warmup warmupcosine",
    "constant": "constant_with_warmup",
}
FLAGS = {
    "fp16": ("train.precision", "fp16"),
    "bf16": ("train.precision", "bf16"),
    "use_lora": ("model.lora", "{}"),
}
"""Switches of other trainers, plain -> our setting and its value when they are on."""

_CHUNKS = (
    "train.batch_size is the whole batch of a step over all processes; train.chunk_size cuts it to save memory, and "
    "its gradient stays that of the whole batch"
)
_RESUME = "--resume resumes the run in train.output (resume=True in Python)"
_COLUMNS = "'columns={filepath: image, title: text_1}' names the columns of a table; these two are read without it"
ANSWERS = {
    "gradientaccumulationsteps": _CHUNKS,
    "gradientaccumulation": _CHUNKS,
    "accumfreq": _CHUNKS,
    "gradcache": "train.chunk_size=32 or train.chunk_tokens=4096 computes the batch in chunks with the exact gradient",
    "freeze": "train.groups=[{pattern: 'model.encoder.embeddings*', frozen: true}] names parameters by a pattern",
    "locklayers": "train.groups=[{pattern: 'model.encoder.embeddings*', frozen: true}] names parameters by a pattern",
    "earlystopping": "evaluation.patience=3 is the number of evaluations in a row without a new best",
    "csvimgkey": _COLUMNS,
    "csvcaptionkey": _COLUMNS,
    "scale": "objective.temperature is its inverse: scale 20 is objective.temperature=0.05",
    "resumefromcheckpoint": _RESUME,
    "resume": _RESUME,
}
"""Names, plain, whose values mean something else here: they are answered, not taken."""

LOSS_ANSWERS = {
    "adaptivelayerloss": "recipe adaptive-layers trains the vectors of earlier layers too",
    "contrastivetensionloss": "recipe contrastive-tension trains two copies of the encoder",
    "contrastivetensionlossinbatchnegatives": "recipe contrastive-tension-in-batch trains two copies of the encoder",
    "denoisingautoencoderloss": "recipe tsdae trains a decoder beside the encoder",
    "matryoshka2dloss": "recipe matryoshka-2d trains earlier layers and prefixes",
    "softmaxloss": "for NLI, recipe simcse-sup trains entailment pairs with contradictions as negatives (infonce)",
}
"""Losses of sentence-transformers without a counterpart, plain -> what is trained in their place."""


def plain(name: str) -> str:
    """`name` as names are compared: lower case, without ``-``, ``_``, ``.`` and spaces.

    Examples
    --------
    >>> plain("Learning-Rate"), plain("no_duplicates")
    ('learningrate', 'noduplicates')
    """
    return "".join(c for c in name.casefold() if c not in "-_. ")


def turned(table: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Peer name, plain -> our names, of a table of our names and theirs.

    Examples
    --------
    >>> turned({"train.lr": "learning_rate", "train.output": "output_dir out"})
    {'learningrate': ('train.lr',), 'outputdir': ('train.output',), 'out': ('train.output',)}
    """
    by_peer: dict[str, tuple[str, ...]] = {}
    for our, names in table.items():
        for name in names.split():
            by_peer[plain(name)] = (*by_peer.get(plain(name), ()), our)
    return by_peer


SETTINGS = turned(_SETTINGS)
"""Peer name of a setting, plain -> our dotted key."""
PARTS = turned(_PARTS)
"""Peer name of a loss, method, recipe, sampler or value, plain -> ours."""


def ours(name: str) -> tuple[str, ...]:
    """Our names for what other trainers call `name`; empty where none is known.

    Examples
    --------
    >>> ours("num_train_epochs"), ours("--max-seq-length"), ours("TripletLoss")
    (('train.epochs',), ('model.max_length',), ('triplet',))
    """
    return SETTINGS.get(plain(name), ()) or PARTS.get(plain(name), ())
