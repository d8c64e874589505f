// SPDX-License-Identifier: Apache-2.0
import {
  BBM_LEVELS,
  blockOptions,
  GRANULES,
  POPULATE_MODES,
  POWER_MODES,
  type PolicyOptions,
  SERIES_STEPS,
  stage2Options,
} from '../policy/policy.ts'
import type { TraceHeader } from './format.ts'

/** The options that the command line knows; others of a header, or other values, mean nothing. */
export function recordedOptions({ policyOptions }: Pick<TraceHeader, 'policyOptions'>): PolicyOptions {
  const { until, granule, requireIsolation, ats, blocks, bbm, power, stage2, populate, quirks } = policyOptions
  const step = SERIES_STEPS.find(known => known === until)
  const size = GRANULES.find(known => known === granule)
  const level = BBM_LEVELS.find(known => known === bbm)
  const mode = POWER_MODES.find(known => known === power)
  const when = POPULATE_MODES.find(known => known === populate)
  return {
    ...(step !== undefined && { until: step }),
    ...(size !== undefined && { granule: size }),
    ...(typeof requireIsolation === 'boolean' && { requireIsolation }),
    ...(typeof ats === 'boolean' && { ats }),
    ...blockOptions({ blocks: blocks === true, ...(level !== undefined && { bbm: level }) }),
    ...(mode !== undefined && { power: mode }),
    ...(stage2 === 'shared' && stage2Options({ stage2, ...(when !== undefined && { populate: when }) })),
    ...(Array.isArray(quirks) && { quirks: quirks.filter(quirk => typeof quirk === 'string') }),
  }
}
