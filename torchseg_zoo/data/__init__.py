"""Pictures and label maps: reading, label sets, preprocessing, augmentation, data sets."""
