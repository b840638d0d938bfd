/**
 * Elementary functions whose bits are the same in every JavaScript runtime. ECMAScript leaves `Math.log`, `Math.sin` and
 * `Math.cos` to the implementation (V8 changed its sine and cosine between the versions in Node 20 and Deno 2), while
 * `+ - * /` and `Math.sqrt` are exactly specified. Whatever ends in a weight or a learning rate is computed with these.
 * Polynomials: Sun's fdlibm (k_sin.c, k_cos.c, e_log.c), below 1 ulp of double precision.
 */

const HALF_PI = 1.5707963267948966;
const LN2_HI = 6.9314718036912381649e-1;
const LN2_LO = 1.90821492927058770002e-10;
const INVERSE_POWERS = Float64Array.from({ length: 33 }, (_, e) => 2 ** -e);

/** Sine of x for |x| <= pi/4. */
function kernelSin(x: number): number {
  const z = x * x;
  const r =
    8.33333333332248946124e-3 +
    z *
      (-1.98412698298579493134e-4 +
        z * (2.75573137070700676789e-6 + z * (-2.50507602534068634195e-8 + z * 1.58969099521155010221e-10)));
  return x + z * x * (-1.66666666666666324348e-1 + z * r);
}

/** Cosine of x for |x| <= pi/4. */
function kernelCos(x: number): number {
  const z = x * x;
  const r =
    z *
    (4.16666666666666019037e-2 +
      z *
        (-1.38888888888741095749e-3 +
          z *
            (2.48015872894767294178e-5 +
              z * (-2.75573143513906633035e-7 + z * (2.08757232129817482790e-9 + z * -1.13596475577881948265e-11)))));
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
  const t1 = w * (3.999999999940941908e-1 + w * (2.222219843214978396e-1 + w * 1.531383769920937332e-1));
  const t2 =
    z *
    (6.666666666666735130e-1 +
      w * (2.857142874366239149e-1 + w * (1.818357216161805012e-1 + w * 1.479819860511658591e-1)));
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
