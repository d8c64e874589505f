// SPDX-License-Identifier: Apache-2.0
/** Outcomes of hypervisor operations: 0, or a negative error number with Linux's names and values. */
export const OK = 0
/** The page's state does not allow it. */
export const EPERM = -1
/** There is no such entry. */
export const ENOENT = -2
/** The hardware did not do what it was told. */
export const EIO = -5
/** The page pool is exhausted. */
export const ENOMEM = -12
/** The address is not RAM. */
export const EFAULT = -14
/** The page is still pinned. */
export const EBUSY = -16
/** There is no such thing, or it is off. */
export const ENODEV = -19
/** Malformed: size, alignment or a reserved value. */
export const EINVAL = -22
/** Larger than the table that should hold it. */
export const ERANGE = -34
/** The hardware did not answer in time. */
export const ETIMEDOUT = -110

const NAMES: Readonly<Record<number, string>> = {
  [OK]: 'OK',
  [EPERM]: 'EPERM',
  [ENOENT]: 'ENOENT',
  [EIO]: 'EIO',
  [ENOMEM]: 'ENOMEM',
  [EFAULT]: 'EFAULT',
  [EBUSY]: 'EBUSY',
  [ENODEV]: 'ENODEV',
  [EINVAL]: 'EINVAL',
  [ERANGE]: 'ERANGE',
  [ETIMEDOUT]: 'ETIMEDOUT',
}

export function resultName(result: number): string {
  return NAMES[result | 0] ?? `error ${result}`
}
