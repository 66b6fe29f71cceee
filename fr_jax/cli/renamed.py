"""Renamed configuration keys: the error for an old key states the new one."""

# Old parent -> new parent -> keys that kept their name.
_MOVED = {
    "data": {
        "data.records": "drop_beyond drop_small expression identities num_identities "
        "path template validation",
    },
    "system": {
        "system.backbone_options": "bn_first_group bn_groups",
        "system.loss_options": "margin temperature",
        "system.network": "discriminator generator",
        "system.objective": "diff_augmentation discriminate_fused interpolate "
        "paired_loss real_target weights",
        "system.optimizer": "betas clip_norm learning_rate milestones momentum plateau "
        "reference_batch warmup_epochs weight_decay",
        "system.queue": "force mask_identity mask_unfilled",
        "system.update": "accuracy_decay ratio strong_ratio threshold",
    },
}
# A key that was split has a new name for each `system_name`.
RENAMED: dict[str, str | dict[str, str]] = {
    f"{old}.{key}": f"{new}.{key}"
    for old, moved in _MOVED.items()
    for new, keys in moved.items()
    for key in keys.split()
} | {
    "children": "data.children",
    "data.beside": "data.records.auxiliary",
    "data.beside_rows": "data.records.auxiliary_rows",
    "selection": "data.selection",
    "selection.held_out": "data.records.held_out",
    "system.channels": "system.network.generator.channels",
    "system.discriminator_learning_rate": (
        "system.optimizer.discriminator.learning_rate"
    ),
    "system.discriminator_stats_in_generator_step": (
        "system.objective.statistics_in_generator_step"
    ),
    "system.gan_loss": "system.objective.adversarial",
    "system.generator_ema": "train.ema_decay",
    "system.num_classes": "data.records.expected_identities",
    "system.pose_mode": "data.pose_labels",
    "system.queue_policy": "system.queue.policy",
    "system.queue_size": "system.queue.size",
    "system.r1_every": "system.objective.r1.every",
    "system.r1_weight": "system.objective.r1.weight",
    "system.schedule": {
        "dr_gan": "system.update.name",
        "inter_prototype": "system.optimizer.schedule",
        "usynthface": "system.optimizer.schedule",
    },
    "system.spectral_norm": "system.network.discriminator.spectral_norm",
    "system.stages": "system.update",
    "system.switch": "system.trunk_switching",
    "system.switch_every": "system.trunk_switching",
}
