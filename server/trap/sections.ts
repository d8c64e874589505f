// SPDX-License-Identifier: Apache-2.0
import type { Machine } from '../machine/ports.ts'
import type { Policy } from '../policy/policy.ts'
import { fieldGet64 } from '../smmu/bits.ts'
import { STRTAB_STE_0_CFG, STRTAB_STE_0_V, STRTAB_STE_3_S2TTB_MASK, steConfigName } from '../smmu/ste.ts'

/** A stream in a report. */
export interface StreamReport {
  readonly smmu: number
  readonly sid: number
  /** Name and model of the device, when QEMU said which it is. */
  readonly device: string
  readonly model: string
  /** Names of the Config fields; `invalid` for V = 0. */
  readonly hostConfig: string
  readonly shadowConfig: string
  /** S2TTB of the shadow entry, hex: the root of what its second stage walks. */
  readonly shadowTtb: string
  /** Trap of the last change. */
  readonly lastChange: number
}

/** The policy's sections of a report; empty when it has nothing to show. */
export function policySections(policy: Policy | undefined, machine: Machine | undefined): Record<string, unknown> {
  const { inspect } = policy ?? {}
  if (inspect === undefined || machine === undefined) return {}
  return {
    ...inspect.sections(),
    streams: inspect.streams().map(({ smmu, sid, host, shadow, trap }): StreamReport => {
      const device = machine.devices.find(d => d.smmu === smmu && d.sid === sid)
      return {
        smmu,
        sid,
        device: device?.name ?? '',
        model: device?.model ?? '',
        hostConfig: configName(host),
        shadowConfig: configName(shadow),
        shadowTtb: `0x${((shadow[3] ?? 0n) & STRTAB_STE_3_S2TTB_MASK).toString(16)}`,
        lastChange: trap,
      }
    }),
  }
}

function configName(ste: BigUint64Array): string {
  const word = ste[0] ?? 0n
  if (fieldGet64(STRTAB_STE_0_V, word) === 0) return 'invalid'
  return steConfigName(fieldGet64(STRTAB_STE_0_CFG, word))
}
