"""Every column of every bundle table, named and typed once (contract 2).

Outside ids are strings or longs; inside they are dense int64 indices that are never renumbered.
"""

# Ids and events
ITEM_ID = "item_id"  # string, as the user knows it
USER_ID = "user_id"  # string, as the user knows it
ITEM_IDX = "item_idx"  # long, 0 .. num_items - 1
USER_IDX = "user_idx"  # long, 0 .. num_users - 1
TIMESTAMP = "timestamp"  # long, unix seconds
EVENT = "event"  # string
WEIGHT = "weight"  # float, weight of a positive, > 0
ORDER_ID = "order_id"  # string, the basket of an event
SPLIT = "split"  # string, one of SPLITS
POSITION = "position"  # int, 0 .. n - 1 in the user's time order

# Items
TITLE = "title"  # string, shown to people in reports
TEXT = "text"  # string, what the text encoder reads
TEXT_VECTOR = "text_vector"  # array<float>, ready embedding
IMAGE_VECTOR = "image_vector"  # array<float>, ready embedding
IMAGE = "image"  # binary, an encoded picture as its file holds it
IMAGE_URI = "image_uri"  # string, where such a file lies
AVAILABLE = "available"  # boolean, may be recommended
SIDE_PREFIX = "side_"  # side_<name>: string or double in prepare, int codes in features

# Histories and popularity
HISTORY = "history"  # array<long> in prepare (oldest first); array<int> padded at the left with PADDING in shards
TARGETS = "targets"  # array<long>, distinct items to find
SEEN = "seen"  # array<long>, distinct earlier items, masked when ranking
COUNT = "count"  # long, train positives of an item (distinct user-item events after deduplication)

# Shards
TARGET = "target"  # long, item_idx of the positive
KNOWN = "known"  # array<int>, the user's last train positives, padded with PADDING
KNOWN_SIZE = 200  # METHOD 3: the last 200 train positives travel for masking
PADDING = -1
EASY_IDS = "easy_ids"  # array<int>, draws * clusters * per_cluster easy negatives, PADDING where the positive has no cluster
HARD_IDS = "hard_ids"  # array<int>, draws * hard negatives, PADDING where the positive's pool is empty
EXPOSED = "exposed"  # array<int>, distinct items last shown to the user before the positive, oldest first, padded at the left

# Rejected rows
TABLE = "table"
REASON = "reason"
COLUMN = "column"
ROW = "row"  # string, the row as JSON

# Features and alignment
TEXT_MODALITY = "text"
IMAGE_MODALITY = "image"
BEHAVIOUR_MODALITY = "behaviour"
MODALITIES = (TEXT_MODALITY, IMAGE_MODALITY, BEHAVIOUR_MODALITY)
MEAN = "mean"  # array<float>, mean of the aligned modalities
PRESENT = "present"  # array<boolean>, one per modality in the order of MODALITIES
NEIGHBOUR_IDX = "neighbour_idx"  # long
SCORE = "score"  # float

# Clusters
PRIMARY = "c1"  # int, 0 .. K1 - 1, or UNASSIGNED
SECONDARY = "c2"  # int, 0 .. K2 - 1, or UNASSIGNED
UNASSIGNED = -1  # an item without any modality has no cluster and takes part in no semantic draw
OFFSET = "offset"  # long, into the members table
FALLBACK = "fallback"  # int, primary that tops up the hard pool of a cell, or UNASSIGNED
CENTROID = "centroid"  # array<float>
PROBABILITIES = "probabilities"  # array<float>, P(C_j | C_i), 0 at j = i

TRAIN, VALIDATION, TEST, SERVE = "train", "validation", "test", "serve"
SPLITS = (TRAIN, VALIDATION, TEST)
