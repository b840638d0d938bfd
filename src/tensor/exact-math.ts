/**
 * Elementary functions whose bits are the same in every JavaScript runtime. ECMAScript leaves `Math.log`, `Math.sin` and
 * `Math.cos` to the implementation (V8 changed its sine and cosine between the versions in Node 20 and Deno 2), while
 * `+ - * /` and `Math.sqrt` are exactly specified. Whatever ends in a weight or a learning rate is computed with these.
 * Polynomials: Sun's fdlibm (k_sin.c, k_cos.c, e_log.c), below 1 ulp of double precision.
 */

const HALF_PI = 1.5707963267948966;
const LN2_HI = 0.6931471803691238;
const LN2_LO = 1.9082149292705877e-10;
const INVERSE_POWERS = Float64Array.from({ length: 33 }, (_, e) => 2 ** -e);

/** Sine of x for |x| <= pi/4. */
export function kernelSin(x: number): number {
  const z = x * x;
  const r =
    0.00833333333332249 +
    z *
      (-0.0001984126982985795 +
        z * (0.0000027557313707070068 + z * (-2.5050760253406863e-8 + z * 1.58969099521155e-10)));
  return x + z * x * (-0.16666666666666632 + z * r);
}

/** Cosine of x for |x| <= pi/4. */
export function kernelCos(x: number): number {
  const z = x * x;
  const r =
    z *
    (0.0416666666666666 +
      z *
        (-0.001388888888887411 +
          z *
            (0.00002480158728947673 +
              z * (-2.7557314351390663e-7 + z * (2.087572321298175e-9 + z * -1.1359647557788195e-11)))));
  return 1 - (0.5 * z - z * r);
}

/** Cosine of `x` turns, that is cos(2 pi x), for any finite x. */
export function cosTurns(x: number): number {
  return sinTurns(x + 0.25);
}

/** Sine of `x` turns, that is sin(2 pi x), for any finite x. */
export function sinTurns(x: number): number {
  const quarters = (x - Math.floor(x)) * 4;
  const nearest = Math.floor(quarters + 0.5);
  const angle = (quarters - nearest) * HALF_PI;
  switch (nearest & 3) {
    case 0:
      return kernelSin(angle);
    case 1:
      return kernelCos(angle);
    case 2:
      return -kernelSin(angle);
    default:
      return -kernelCos(angle);
  }
}

/** Natural logarithm of an integer n, 1 <= n <= 2^32. */
export function logOfInteger(n: number): number {
  // n = m * 2^e with m in [sqrt(1/2), sqrt(2)): scaling by a power of two is exact.
  let e = n >= 4294967296 ? 32 : 31 - Math.clz32(n);
  let m = n * (INVERSE_POWERS[e] as number);
  if (m > Math.SQRT2) {
    m /= 2;
    e += 1;
  }
  const f = m - 1;
  const s = f / (2 + f);
  const z = s * s;
  const w = z * z;
  const t1 = w * (0.3999999999940942 + w * (0.22222198432149784 + w * 0.15313837699209373));
  const t2 = z * (0.6666666666666735 + w * (0.2857142874366239 + w * (0.1818357216161805 + w * 0.14798198605116586)));
  const half = 0.5 * f * f;
  return e * LN2_HI - (half - (s * (half + t1 + t2) + e * LN2_LO) - f);
}

/** `base` to the power of an integer `exponent` >= 0, by squaring. Unlike `**`, the same bits in every runtime. */
export function powInteger(base: number, exponent: number): number {
  let result = 1;
  let square = base;
  for (let n = exponent; n >= 1; n = Math.floor(n / 2)) {
    if (n % 2 === 1) result *= square;
    square *= square;
  }
  return result;
}
