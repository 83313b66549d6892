/* Ratios of scores in the precision that is named `REAL`: included for each precision. */

/* Return the largest ratio, or zero; eight maxima side by side need one register. */
static REAL NAME(highest)(const REAL *ratio, int64_t number) {
    REAL part[8] = {0};
    int64_t whole = number - number % 8;
    for (int64_t p = 0; p < whole; p += 8)
        for (int64_t i = 0; i < 8; i++)
            part[i] = ratio[p + i] > part[i] ? ratio[p + i] : part[i];
    for (int64_t p = whole; p < number; p++)
        part[0] = ratio[p] > part[0] ? ratio[p] : part[0];
    for (int64_t i = 1; i < 8; i++)
        part[0] = part[i] > part[0] ? part[i] : part[0];
    return part[0];
}

/* Where the ratio of one template is higher than of those before, take it. */
static void NAME(keep_highest)(const REAL *restrict own, int32_t which, int64_t number,
                               REAL *restrict ratio, int32_t *restrict owner) {
    for (int64_t p = 0; p < number; p++) {
        owner[p] = own[p] > ratio[p] ? which : owner[p];
        ratio[p] = own[p] > ratio[p] ? own[p] : ratio[p];
    }
}

/* Fill in the absolute values of scores of an allowed sign, relative to the weight. */
static void NAME(fill_own)(const REAL *restrict score, REAL rise, REAL fall, int64_t number,
                           REAL *restrict own) {
    for (int64_t p = 0; p < number; p++)
        own[p] = score[p] * rise > score[p] * fall ? score[p] * rise : score[p] * fall;
}

/* Fill in the norms over units of scores of an allowed sign, relative to the weight. */
static void NAME(fill_norms)(const NAME(Scores) * scores, int64_t which, int64_t first,
                             int64_t number, Weights penalty, REAL *restrict own) {
    bool up = penalty.up.at[which], down = penalty.down.at[which];
    REAL weight = (REAL)penalty.weight.at[which];
    for (int64_t p = 0; p < number; p++)
        own[p] = 0;
    for (int64_t u = 0; u < scores->score.n[0]; u++) {
        const REAL *score = ROW3(scores->score, u, which) + first;
        for (int64_t p = 0; p < number; p++) {
            REAL part = (score[p] > 0 ? up : down) ? score[p] : 0;
            own[p] += part * part;
        }
    }
    for (int64_t p = 0; p < number; p++)
        own[p] = SQRT(own[p]) / weight;
}

/* Fill in ratios and owners from `first` on, of the onsets of a block; return the largest ratio. */
static double NAME(rate)(const NAME(Scores) * scores, int64_t first, int64_t number,
                         Weights penalty, flags1 onsets, int32_t *owner) {
    REAL own[BLOCK], *ratio = scores->ratio.at + first;
    for (int64_t p = 0; p < number; p++) {
        ratio[p] = -1;
        owner[p] = 0;
    }
    for (int64_t c = 0; c < scores->templates.n[0]; c++) {
        REAL share = (REAL)(1.0 / penalty.weight.at[c]);
        if (penalty.grouped)
            NAME(fill_norms)(scores, c, first, number, penalty, own);
        else
            NAME(fill_own)(ROW3(scores->score, 0, c) + first, penalty.up.at[c] ? share : 0,
                           penalty.down.at[c] ? -share : 0, number, own);
        NAME(keep_highest)(own, (int32_t)c, number, ratio, owner);
    }
    for (int64_t p = 0; p < (onsets.n[0] ? number : 0); p++)
        ratio[p] = onsets.at[first + p] ? ratio[p] : 0;
    return NAME(highest)(ratio, number);
}

/* Renew the scores of all units from `first` up to `last`. */
static void NAME(renew_scores)(const NAME(Scores) * scores, ARRAY(2) residual, int64_t first,
                               int64_t last) {
    int64_t n_templates = scores->templates.n[0], n_channels = scores->templates.n[1];
    int64_t n_bins = residual.n[1], n_onsets = scores->score.n[2];
    for (int64_t u = 0; u < scores->score.n[0]; u++) {
        ARRAY(2) rows = {ROW2(residual, u * n_channels), {n_channels, n_bins}};
        ARRAY(2) own = {ROW3(scores->score, u, 0), {n_templates, n_onsets}};
        NAME(fill_scores)(scores->templates, rows, first, last, own);
    }
}

/* Whether a ratio is the largest of those within reach. */
static bool NAME(leads)(ARRAY(1) ratio, int64_t p, int64_t reach) {
    int64_t last = smaller(p + reach, ratio.n[0] - 1);
    for (int64_t q = larger(p - reach, 0); q <= last; q++)
        if (ratio.at[q] > ratio.at[p])
            return false;
    return true;
}
