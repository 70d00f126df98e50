"""The interfaces of other libraries, with their names and arguments, on the engines of fastkeras.

Code written for them runs once its imports are changed:

    fastkeras.compat.addons        `tensorflow_addons`: the CRF of `text` and of `layers`
    fastkeras.compat.bert4keras    `ConditionalRandomField`, `ViterbiDecoder`,
                                   `AutoRegressiveDecoder`
    fastkeras.compat.crf_keras     `CRF(ignore_last_label)` of Su Jianlin's article
    fastkeras.compat.keras_hub     searches with the language models of keras-hub
    fastkeras.compat.torchcrf      `CRF(num_tags, batch_first)` of pytorch-crf
    fastkeras.compat.torch_optim   `AdamW` of `torch.optim`
    fastkeras.compat.convert       weights of all these CRFs, and of keras-contrib, for `layers.CRF`

docs/crf.md, "Coming from another CRF", and docs/optimizers.md, "Engines", list the differences.
"""
