// SPDX-License-Identifier: Apache-2.0
/**
 * Which folder may import which, lowest first: no import goes up, and none in a circle, imports of types included.
 * `npm run lint` checks it.
 */

const PORTS = 'server/machine/ports[.]ts'

/** Folder, and what it may import besides itself. Patterns of paths; a folder stands for all in it. */
const MAY_IMPORT = [
  ['protocol', []],
  ['scripts/setup', []],
  ['server/smmu', []],
  ['server/machine', ['server/smmu']],
  ['server/policy', ['server/smmu', PORTS]],
  // `$1` is the hypervisor's own folder: one does not know another, but for what they have in common.
  ['server/hypervisor/common', ['server/smmu', 'server/policy', PORTS]],
  ['server/hypervisor/(?!full/)([^/]+)', ['server/smmu', 'server/policy', PORTS, 'server/hypervisor/common']],
  // A set of choices of `pkvm`.
  ['server/hypervisor/full', ['server/smmu', 'server/policy', PORTS, 'server/hypervisor/(common|pkvm)']],
  // It shares nothing with those that it checks.
  ['server/oracle', ['server/smmu', 'server/policy', PORTS]],
  ['server/trace', ['protocol', 'server/smmu', 'server/policy', PORTS]],
  ['server/translate', ['protocol', 'server/smmu', PORTS]],
  [
    'server/faults',
    [
      'protocol',
      'server/smmu',
      'server/policy',
      PORTS,
      'server/machine/comingDevices[.]ts',
      'server/trace/(ring|records|words)[.]ts',
      'server/translate/answer[.]ts',
    ],
  ],
  [
    'server/trap',
    [
      'protocol',
      'server/smmu',
      'server/machine',
      'server/policy',
      'server/oracle',
      'server/trace',
      'server/translate',
      'server/faults',
    ],
  ],
  ['server/control', ['protocol', 'server/(machine|policy|trace|translate|faults|trap)']],
  [
    'server/run',
    ['protocol', 'scripts/setup', 'server/(smmu|machine|policy|oracle|trace|translate|faults|trap|control)'],
  ],
  [
    'server/sessions',
    ['protocol', 'scripts/setup', 'server/(smmu|machine|policy|oracle|trace|translate|faults|trap|control|run)'],
  ],
  [
    'server/api',
    [
      'protocol',
      'scripts/setup',
      'server/(smmu|machine|policy|oracle|trace|translate|faults|trap|control|run|sessions|attack|fleet)',
    ],
  ],
  ['server/attack', ['server/smmu', 'server/policy', 'server/oracle', PORTS]],
  [
    'server/fleet',
    [
      'protocol',
      'scripts/setup',
      'server/(smmu|machine|policy|oracle|trace|translate|faults|trap|control|run|sessions|attack)',
    ],
  ],
  // For a browser: it has all policies, as there is nothing to load them from.
  ['server/recorded', ['protocol', 'server/(smmu|machine|policy|hypervisor|oracle|trace|trap|run|api)']],
  [
    'server/web',
    ['server/api', 'server/faults', 'server/recorded', 'server/smmu/bits[.]ts', 'server/trace/words[.]ts'],
  ],
  [
    'server/cli',
    [
      'protocol',
      'scripts/setup',
      'test/bench',
      'test/fuzz',
      'server/(smmu|machine|policy|oracle|trace|translate|faults|trap|control|run|sessions|api|attack|fleet|testing)',
    ],
  ],
  [
    'server/testing',
    [
      'protocol',
      'scripts/setup',
      'server/(smmu|machine|policy|oracle|trace|translate|faults|trap|control|run|sessions)',
      'server/cli/terminal[.]ts',
    ],
  ],
]

const layers = MAY_IMPORT.map(([folder, allowed]) => {
  const own = folder.replace(/\(.*\)/, '$1')
  return {
    name: folder.replace('([^/]+)', '*'),
    severity: 'error',
    from: { path: `^${folder}/` },
    to: {
      path: '^(protocol|scripts|server|test|docker)/',
      pathNot: [own, ...allowed].map(path => (path.endsWith('[.]ts') ? `^${path}$` : `^${path}/`)),
    },
  }
})

/** @type {import('dependency-cruiser').IConfiguration} */
export default {
  forbidden: [
    ...layers,
    {
      name: 'a folder for everything',
      comment: 'A new folder of server/ has its place in the list.',
      severity: 'error',
      from: {
        path: '^server/',
        pathNot: MAY_IMPORT.map(([folder]) => `^${folder}/`),
      },
      to: {},
    },
    {
      name: 'web takes types only',
      comment: 'Values would bring the server into the browser; how a route is asked for is plain text.',
      severity: 'error',
      from: { path: '^server/web/' },
      to: {
        path: '^server/(api|faults)/',
        pathNot: '^server/api/schemas/request[.]ts$',
        dependencyTypesNot: ['type-only'],
      },
    },
    {
      name: 'no circle',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
  ],
  options: {
    parser: 'swc',
    doNotFollow: { path: 'node_modules' },
    includeOnly: { path: '^(protocol|scripts|server|test|docker)/' },
    exclude: { path: '[.]md$' },
  },
}
