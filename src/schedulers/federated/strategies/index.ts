import { registerStrategy } from '../strategy.ts';
import { feddyn, fednova, fedprox, scaffold } from './drift.ts';
import { fedavg, fedsgd } from './fedavg.ts';
import { fedadagrad, fedadam, fedavgm, fedyogi } from './fedopt.ts';
import { fedbn, fedper } from './personal-layers.ts';
import { bulyan, fedmedian, fedtrimmedavg, krum, multikrum, normclip, rfa } from './robust.ts';

export * from './drift.ts';
export * from './fedavg.ts';
export * from './fedopt.ts';
export * from './personal-layers.ts';
export * from './robust.ts';

// A new strategy that works in rounds is one file and one line here.
registerStrategy(fedavg);
registerStrategy(fedsgd);
registerStrategy(fedavgm);
registerStrategy(fedadagrad);
registerStrategy(fedadam);
registerStrategy(fedyogi);
registerStrategy(fedprox);
registerStrategy(fednova);
registerStrategy(scaffold);
registerStrategy(feddyn);
registerStrategy(fedbn);
registerStrategy(fedper);
registerStrategy(fedmedian);
registerStrategy(fedtrimmedavg);
registerStrategy(krum);
registerStrategy(multikrum);
registerStrategy(bulyan);
registerStrategy(rfa);
registerStrategy(normclip);
