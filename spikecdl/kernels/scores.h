/* Scores in the precision that is named `REAL`, eight taps at a time: included for each precision.
 */

static void NAME(add_eight_taps)(REAL *restrict out, const REAL *h, const REAL *restrict signal,
                                 int64_t size) {
    for (int64_t p = 0; p < size; p++) {
        const REAL *r = signal + p;
        REAL one = (h[0] * r[0] + h[1] * r[1]) + (h[2] * r[2] + h[3] * r[3]);
        out[p] += one + ((h[4] * r[4] + h[5] * r[5]) + (h[6] * r[6] + h[7] * r[7]));
    }
}

void NAME(fill_scores)(ARRAY(3) templates, ARRAY(2) residual, int64_t first, int64_t last,
                       ARRAY(2) score) {
    int64_t length = templates.n[2], size = last - first, whole = length - length % 8;
    for (int64_t c = 0; c < templates.n[0]; c++) {
        REAL *restrict out = ROW2(score, c) + first;
        for (int64_t p = 0; p < size; p++)
            out[p] = 0;
        for (int64_t n = 0; n < templates.n[1]; n++) {
            const REAL *taps = ROW3(templates, c, n), *signal = ROW2(residual, n) + first;
            for (int64_t k = 0; k < whole; k += 8)
                NAME(add_eight_taps)(out, taps + k, signal + k, size);
            for (int64_t k = whole; k < length; k++)
                for (int64_t p = 0; p < size; p++)
                    out[p] += taps[k] * signal[k + p];
        }
    }
}
